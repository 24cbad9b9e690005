"""Shell completion: what the shell is told, and that telling it costs no PyTorch."""

import os
import subprocess
import sys

import pytest

COMPLETING = """
import sys
from ressa.cli import main
status = main([])
print(*({"torch", "transformers"} & set(sys.modules)), file=sys.stderr)
sys.exit(status)
"""


@pytest.mark.parametrize(
    ("line", "offered", "not_offered"),
    [
        ("ressa pru", {"prune"}, {"repair"}),
        ("ressa prune embedded --metho", {"--method"}, {"--model"}),
        ("ressa inspect x --", {"--recipe", "--layers"}, {"--pattern"}),
    ],
)
def test_the_shell_is_offered_commands_and_options_without_pytorch(line, offered, not_offered):
    words = {"_RESSA_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    ran = subprocess.run(
        [sys.executable, "-c", COMPLETING], capture_output=True, text=True, env={**os.environ, **words}
    )
    found = set(ran.stdout.split())
    assert offered <= found, ran.stderr
    assert not not_offered & found
    assert ran.stderr.strip() == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell(shell):
    words = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", "ressa", "--show-completion", shell],
        capture_output=True,
        text=True,
        env={**os.environ, **words},
    )
    assert ran.returncode == 0, ran.stderr
    assert "_RESSA_COMPLETE" in ran.stdout


def test_installing_it_writes_to_the_shell_s_own_files(tmp_path):
    env = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", "ressa", "--install-completion", "bash"],
        capture_output=True,
        text=True,
        env=env,
    )
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / ".bash_completions" / "ressa.sh").is_file()
    assert "ressa.sh" in (tmp_path / ".bashrc").read_text()
