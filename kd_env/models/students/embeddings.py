"""Word embeddings of small students: the teacher's, reduced to the student's width."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kd_env.config.student import StudentConfig


def principal_components(embeddings: Tensor, width: int, deviation: float) -> Tensor:
    """A table ``[V, E]`` reduced to its first principal components, ``[V, width]`` float32 on the host.

    Rows are centred over the vocabulary first, each token counting once: what all of them share tells no two apart, and
    would be the first component. Axes are the eigenvectors of the rows' covariance in float64, the widest first, each
    with its largest entry positive, so that a table has one reduction. One factor then gives all entries together the
    standard ``deviation``; components keep their proportions, so that distances of words are the teacher's as nearly as
    ``width`` numbers allow, times one factor.

    Args:
        embeddings: ``[V, E]``.
        width: at most E.
        deviation: of the result.
    """
    rows = embeddings.detach().cpu().double()
    rows = rows - rows.mean(0)
    axes = torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1)[:, :width]  # eigenvalues ascend
    components: Tensor = rows @ (axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign())
    components *= deviation / components.square().mean().sqrt()
    return components.float()


def fill_embeddings(options: StudentConfig, student: Any, teacher: Any) -> str:
    """Put word embeddings into a fresh student as its options say; what is left to be drawn, for ``Encoder.build``.

    Reduced ones get the standard deviation with which all other weights are drawn (``initializer_range``): word,
    position and segment embeddings are added before the first norm, so that words count as in any fresh student, and
    the norm takes the teacher's own scale away in any case.

    Args:
        options: of the student.
        student: fresh, with the teacher's vocabulary.
        teacher: whose word embeddings are read.

    Raises:
        ValueError: word embeddings that are to be wider than the teacher's.
    """
    if options.embedding_init == "drawn":
        return "all"
    table, source = student.get_input_embeddings().weight, teacher.get_input_embeddings().weight
    width, widest = table.shape[1], source.shape[1]
    if width > widest:
        name = "hidden_size" if options.embedding_size is None else "embedding_size"
        raise ValueError(
            f"student.{name}={width} is wider than the teacher's word embeddings ({widest}), and "
            f"student.embedding_init='pca' reduces those; choose at most {widest}, or student.embedding_init='drawn'."
        )
    with torch.no_grad():
        table.copy_(principal_components(source, width, float(getattr(student.config, "initializer_range", 0.02))))
    return "all_but_embeddings"
