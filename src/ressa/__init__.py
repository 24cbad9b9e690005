"""ressa makes a vision-language model (VLM) sparse, repairs what that broke, and proves both."""

__version__ = "0.1.0"
