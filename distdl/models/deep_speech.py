"""Deep Speech (Hannun et al. 2014, section 2): three dense layers, the first on a window of frames, one recurrence in
both directions, one dense layer. ReLUs are clipped at 20; the recurrence is torch's, whose ReLU is not."""

from torch import Tensor, nn

from distdl.models.acoustic import check_context, spliced
from distdl.models.frames import OwnFrames, Recurrence, check_features, clipped_relu
from distdl.models.layers import check_probabilities, check_sizes


class DeepSpeech(nn.Module):
    """forward(features (rows, frames, features), lengths (rows,)) -> (logits (rows, frames, classes), lengths)."""

    is_acoustic = True

    def __init__(self, classes: int, features: int, width: int, context: int, dropout: float) -> None:
        super().__init__()
        check_sizes(classes=classes, features=features, width=width)
        check_context(context)
        check_probabilities(dropout=dropout)
        self.features, self.context = features, context
        self.before = nn.ModuleList(nn.Linear(inputs, width) for inputs in ((2 * context + 1) * features, width, width))
        self.recurrence = Recurrence(width, width, "rnn")
        self.after = nn.Linear(width, width)
        self.classifier = nn.Linear(width, classes)
        self.dropout = nn.Dropout(dropout)

    def output_lengths(self, lengths_B: Tensor) -> Tensor:
        return lengths_B

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        check_features(features_BTF, self.features)
        own = OwnFrames(lengths_B, features_BTF.shape[1])
        values_BTX = spliced(own.zeroed(features_BTF), self.context).flatten(2)
        for layer in self.before:
            values_BTX = self.dropout(clipped_relu(layer(values_BTX)))
        values_BTX = self.dropout(clipped_relu(self.after(self.recurrence(values_BTX, own))))
        return own.zeroed(self.classifier(values_BTX)), lengths_B

    def blocks(self) -> list[str]:
        return ["recurrence"]


def deep_speech(
    classes: int = 29, features: int = 80, width: int = 2048, context: int = 9, dropout: float = 0.05
) -> DeepSpeech:
    """`width`: the paper has 2048 or 2304; `context`: frames on each side, 5 to 9 of them there."""
    return DeepSpeech(classes, features, width, context, dropout)
