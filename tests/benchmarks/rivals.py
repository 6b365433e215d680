"""What a user would take today to turn texts into vectors, each as a function that does it.

    embed = RIVALS["ONNX Runtime"].make(model_folder, scratch_folder, texts)
    embed(texts)                                    # (text, hidden) float32

Every rival gives the mean of the final hidden states over a text's tokens. All but the padded loop
sort the texts by length first, as ``encode`` of sentence-transformers does, and run 32 at a time.
None is a dependency of the project; those that are not installed are left out. Checked versions:

    pip install sentence-transformers==6.2.0
    pip install onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0
    pip install onnx==1.23.2 onnxscript==0.7.2 openvino==2026.4.1 nncf==3.4.0

The ``onnx`` and ``openvino`` backends of sentence-transformers are these same two engines behind
optimum, which does not load beside transformers 5.23 (optimum-intel 2.2.0 wants < 5.6, optimum-onnx
0.1.0 < 4.58). So the model is exported by ``torch.onnx.export`` and run by the engine itself.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

BATCH = 32
MAX_LENGTH = 512
CALIBRATION_BATCHES = 8
"""Batches that a static quantisation sees to choose its scales."""
INPUTS = ("input_ids", "attention_mask")

Embed = Callable[[Sequence[str]], np.ndarray]
"""texts -> (text, hidden) float32."""
Run = Callable[[dict[str, np.ndarray]], np.ndarray]
"""ids and mask, (text, token) int64 -> (text, token, hidden) float32."""


class Rival(NamedTuple):
    make: Callable[[Path, Path, Sequence[str]], Embed]
    """Model folder, folder to write into, texts to calibrate with -> the function."""
    modules: tuple[str, ...] = ()
    """What must be there to import."""
    install: str = ""

    @property
    def missing(self) -> list[str]:
        """Modules that are not installed."""
        return [name for name in self.modules if importlib.util.find_spec(name) is None]


def batches_of(path: Path, texts: Sequence[str], *, by_length: bool) -> Any:
    """Yields (rows, inputs): padded batches, the longest texts first or as they come."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    order = np.arange(len(texts))
    if by_length:
        order = np.argsort([-len(text) for text in texts], kind="stable")
    for first in range(0, len(texts), BATCH):
        rows = order[first : first + BATCH]
        batch = tokenizer(
            [texts[row] for row in rows],
            padding=True,
            truncation=True,
            max_length=MAX_LENGTH,
            return_token_type_ids=False,
            return_tensors="np",
        )
        yield rows, {name: batch[name].astype(np.int64) for name in INPUTS}


def in_batches(path: Path, run: Run, *, by_length: bool = True) -> Embed:
    """Tokenise, run, take the mean over the tokens that are not pads."""

    def embed(texts: Sequence[str]) -> np.ndarray:
        means: dict[int, np.ndarray] = {}
        for rows, inputs in batches_of(path, texts, by_length=by_length):
            hidden, mask = run(inputs), inputs["attention_mask"][..., None].astype(np.float32)
            means.update(zip(rows, (hidden * mask).sum(1) / mask.sum(1), strict=True))
        return np.stack([means[row] for row in range(len(texts))])

    return embed


def with_torch(model: Any) -> Run:
    """A Hugging Face model."""

    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        tensors = {name: torch.from_numpy(values) for name, values in inputs.items()}
        with torch.inference_mode():
            return model(**tensors).last_hidden_state.float().numpy()

    return run


def plain(path: Path) -> Any:
    """The model in float32."""
    return AutoModel.from_pretrained(path, dtype=torch.float32).eval()


def padded_loop(path: Path, folder: Path, texts: Sequence[str]) -> Embed:
    """The loop that everybody writes: as the texts come."""
    return in_batches(path, with_torch(plain(path)), by_length=False)


def sentence_transformers(dtype: str) -> Any:
    """``encode`` in a precision, without the last step that scales vectors to length one."""

    def make(path: Path, folder: Path, texts: Sequence[str]) -> Embed:
        from sentence_transformers import SentenceTransformer

        whole = SentenceTransformer(str(path), device="cpu", model_kwargs={"dtype": dtype})
        kept = [module for module in whole if type(module).__name__ != "Normalize"]
        model = SentenceTransformer(modules=kept, device="cpu")
        model.max_seq_length = MAX_LENGTH
        return lambda texts: model.encode(list(texts), show_progress_bar=False)

    return make


def torch_int8(path: Path, folder: Path, texts: Sequence[str]) -> Embed:
    """Linear layers with int8 weights, activations quantised as they come."""
    with quietly():
        model = torch.ao.quantization.quantize_dynamic(plain(path), {torch.nn.Linear})
    return in_batches(path, with_torch(model))


def exported(path: Path, folder: Path) -> Path:
    """The model as ONNX, written once."""
    file = folder / "rival.onnx"
    if file.is_file():
        return file

    class Final(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = plain(path)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            output = self.model(input_ids=input_ids, attention_mask=attention_mask)
            return output.last_hidden_state

    ids = torch.randint(100, 1000, (2, 7))
    axes = {0: torch.export.Dim("text"), 1: torch.export.Dim("token", max=MAX_LENGTH)}
    with quietly(), torch.no_grad():
        torch.onnx.export(
            Final().eval(),
            (ids, torch.ones_like(ids)),
            file,
            input_names=list(INPUTS),
            dynamic_shapes=dict.fromkeys(INPUTS, axes),
            dynamo=True,
            verbose=False,
            external_data=False,
        )
    return file


def onnx_runtime(*, int8: bool) -> Any:
    """ONNX Runtime in float32, or with dynamic quantisation: a scale for each row of weights."""

    def make(path: Path, folder: Path, texts: Sequence[str]) -> Embed:
        import onnxruntime

        file = exported(path, folder)
        if int8:
            from onnxruntime.quantization import QuantType, quantize_dynamic

            small = file.with_name("rival-int8.onnx")
            with quietly():
                quantize_dynamic(file, small, weight_type=QuantType.QInt8, per_channel=True)
            file = small
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return in_batches(path, lambda inputs: session.run(None, inputs)[0])

    return make


def openvino(precision: str | None = None, *, int8: bool = False) -> Any:
    """OpenVINO in ``"f32"`` or ``"bf16"``, or quantised with scales chosen on some texts.

    Without a precision it takes bfloat16 on processors that have it, for what stays float.
    """

    def make(path: Path, folder: Path, texts: Sequence[str]) -> Embed:
        import openvino as engine

        core = engine.Core()
        model = core.read_model(exported(path, folder))
        if int8:
            import nncf

            seen = texts[: BATCH * CALIBRATION_BATCHES]
            inputs = [batch for _, batch in batches_of(path, seen, by_length=True)]
            with quietly():
                model = nncf.quantize(
                    model,
                    nncf.Dataset(inputs),
                    model_type=nncf.ModelType.TRANSFORMER,
                    subset_size=len(inputs),
                )
        settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
        if precision is not None:
            settings["INFERENCE_PRECISION_HINT"] = precision
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        return in_batches(path, lambda inputs: request.infer(inputs)[0])

    return make


@contextmanager
def quietly() -> Any:
    """Without the warnings, notes and progress of exporters and quantisers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


ENCODE = (("sentence_transformers",), "sentence-transformers==6.2.0")
ONNX = (
    ("onnx", "onnxscript", "onnxruntime"),
    "onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0",
)
OPENVINO = (
    ("onnx", "onnxscript", "openvino", "nncf"),
    "onnx==1.23.2 onnxscript==0.7.2 openvino==2026.4.1 nncf==3.4.0",
)
RIVALS: dict[str, Rival] = {
    "padded loop": Rival(padded_loop),
    "sentence-transformers": Rival(sentence_transformers("float32"), *ENCODE),
    "ONNX Runtime": Rival(onnx_runtime(int8=False), *ONNX),
    "OpenVINO float32": Rival(openvino("f32"), *OPENVINO),
    "sentence-transformers bfloat16": Rival(sentence_transformers("bfloat16"), *ENCODE),
    "OpenVINO bfloat16": Rival(openvino("bf16"), *OPENVINO),
    "torch int8": Rival(torch_int8),
    "ONNX Runtime int8": Rival(onnx_runtime(int8=True), *ONNX),
    "OpenVINO int8": Rival(openvino(int8=True), *OPENVINO),
}
"""The first is the reference of what the others give."""
