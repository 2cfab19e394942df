"""Settings of CoMatch."""

import dataclasses

from supcon_tf.losses.pairs import check_count, check_switch, check_temperature


@dataclasses.dataclass(frozen=True)
class CoMatchSettings:
    """Settings of CoMatch.

    Attributes:
        temperature: t, of the bank's vote and of the graph of embeddings.
        alpha: weight of an image's own probabilities in its pseudo-label; 1 for no smoothing.
        confidence: tau; a pseudo-label is learned from if its largest probability is at least tau.
        graph_threshold: T, the least similarity of two pseudo-labels that joins their images.
        pseudo_label_weight: lambda_u, weight of the cross entropy with pseudo-labels.
        graph_weight: lambda_c, weight of the contrastive graph loss.
        graph_ramp: whether the graph loss's weight grows by 1 per epoch, from 1 to `graph_weight`.
        history: batches that the average of class probabilities is taken over.
        teacher: whether pseudo-labels, the bank and the contrasts come from the moving average of
            the networks, with a queue of contrasts (the form for ImageNet).

    Raises:
        ValueError: if one is out of range.
    """

    temperature: float = 0.2
    alpha: float = 0.9
    confidence: float = 0.95
    graph_threshold: float = 0.8
    pseudo_label_weight: float = 1.0
    graph_weight: float = 1.0
    graph_ramp: bool = False
    history: int = 32
    teacher: bool = False

    def __post_init__(self):
        check_temperature(self.temperature)
        most = {"alpha": 1, "confidence": 1, "graph_threshold": 1e6}
        most |= {"pseudo_label_weight": 1e6, "graph_weight": 1e6}
        for name, bound in most.items():
            if not 0 <= getattr(self, name) <= bound:
                received = f"Received: {getattr(self, name)}."
                raise ValueError(f"{name} must be in [0, {bound:g}]. {received}")
        check_count("history", self.history)
        for name in ("graph_ramp", "teacher"):
            check_switch(name, getattr(self, name))
        if self.graph_ramp and self.graph_weight <= 1:
            raise ValueError(
                f"graph_ramp needs a graph_weight above 1. Received: {self.graph_weight}."
            )

    @property
    def embeds(self):
        """Whether embeddings are used: to smooth, or in the graph."""
        return self.alpha < 1 or self.graph_weight > 0
