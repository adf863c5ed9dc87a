"""Speech models of torchaudio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.case import Case, Made


def tacotron2(tiny: bool) -> Made:
    """Return Tacotron 2 for a few frames, each of which goes through two recurrent cells."""
    import torchaudio

    names = ("symbol_embedding_dim", "encoder_embedding_dim", "decoder_rnn_dim", "attention_rnn_dim", "prenet_dim",
             "postnet_embedding_dim")  # fmt: skip
    model = torchaudio.models.Tacotron2(**(dict.fromkeys(names, 32) if tiny else {}))
    letters, frames = (10, 2) if tiny else (40, 6)
    inputs = torch.randint(0, 148, (2, letters)), torch.tensor([letters, letters - 2])
    return model, (*inputs, torch.randn(2, 80, frames), torch.tensor([frames, frames]))


def wav2letter(tiny: bool) -> Made:
    """Return Wav2Letter on samples."""
    import torchaudio

    return torchaudio.models.Wav2Letter(), (torch.randn(1, 1, 2000 if tiny else 16000),)


def conformer(tiny: bool) -> Made:
    """Return a Conformer."""
    import torchaudio

    size, frames = (32, 20) if tiny else (256, 400)
    model = torchaudio.models.Conformer(size, 4, 4 * size, 2, 31)
    return model, (torch.randn(2, frames, size), torch.tensor([frames, frames - 5]))


def emformer(tiny: bool) -> Made:
    """Return an Emformer with memory."""
    import torchaudio

    size, frames = (32, 20) if tiny else (512, 132)
    model = torchaudio.models.Emformer(size, 8, 4 * size, 2, 16, left_context_length=8, right_context_length=4)
    return model, (torch.randn(2, frames, size), torch.tensor([frames - 4, frames - 6]))


def deep_speech(tiny: bool) -> Made:
    """Return DeepSpeech, whose recurrent layer looks both ways."""
    import torchaudio

    model = torchaudio.models.DeepSpeech(26, n_hidden=32 if tiny else 1024)
    return model, (torch.randn(2, 1, 6 if tiny else 50, 26),)


def conv_tasnet(tiny: bool) -> Made:
    """Return Conv-TasNet, which separates speakers."""
    import torchaudio

    sizes: dict[str, int] = {"enc_num_feats": 16, "msk_num_feats": 16, "msk_num_hidden_feats": 32} if tiny else {}
    model = torchaudio.models.ConvTasNet(msk_num_layers=3, msk_num_stacks=2, **sizes)
    return model, (torch.randn(1, 1, 1600 if tiny else 16000),)


def hdemucs(tiny: bool) -> Made:
    """Return Hybrid Demucs: one branch on samples, one on a spectrum."""
    import torchaudio

    model = torchaudio.models.HDemucs(
        ["drums", "rest"], channels=8 if tiny else 16, depth=4 if tiny else 6, nfft=1024 if tiny else 4096
    )
    return model, (torch.randn(1, 2, 8192 if tiny else 44100),)


class Joint(nn.Module):
    """A recurrent transducer without its lengths among the results."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *values: Tensor) -> Tensor:
        """Return the joint network's scores."""
        scores: Tensor = self.model(*values)[0]
        return scores


def transducer(tiny: bool) -> Made:
    """Return a recurrent transducer: an encoder of sound beside a predictor of text, and a network that joins them."""
    import torchaudio

    size = 32 if tiny else 512
    model = torchaudio.models.emformer_rnnt_model(
        input_dim=20, encoding_dim=size, num_symbols=64, segment_length=16, right_context_length=4, time_reduction_input_dim=16,
        time_reduction_stride=4, transformer_num_heads=4, transformer_ffn_dim=2 * size, transformer_num_layers=1,
        transformer_dropout=0.0, transformer_activation="gelu", transformer_left_context_length=8,
        transformer_max_memory_size=0, transformer_weight_init_scale_strategy="depthwise", transformer_tanh_on_mem=True,
        symbol_embedding_dim=size, num_lstm_layers=1, lstm_layer_norm=True, lstm_layer_norm_epsilon=1e-3, lstm_dropout=0.0,
    )  # fmt: skip
    frames, words = (36, 3) if tiny else (132, 6)
    sound = torch.randn(1, frames, 20), torch.tensor([frames - 4])
    text = torch.randint(0, 64, (1, words), dtype=torch.int32), torch.tensor([words], dtype=torch.int32)
    return Joint(model), (*sound, *text)


BUILDS: dict[str, Callable[[bool], Made]] = {
    "tacotron2": tacotron2, "wav2letter": wav2letter, "conformer": conformer, "emformer": emformer,
    "deepspeech": deep_speech, "conv-tasnet": conv_tasnet, "hdemucs": hdemucs, "rnnt": transducer,
}  # fmt: skip
CASES = [Case(f"torchaudio-{name}", "torchaudio", build, quick=name == "conv-tasnet") for name, build in BUILDS.items()]
