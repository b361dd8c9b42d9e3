"""Word embeddings of small students: the teacher's, reduced to the student's width."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kd_env.config.student import StudentConfig


def principal_components(embeddings: Tensor, width: int) -> Tensor:
    """A table ``[V, E]`` reduced to its first principal components, ``[V, width]`` float32 on the host.

    Rows are centred over the vocabulary first, each token counting once: what all of them share tells no two apart, and
    would be the first component. Axes are the eigenvectors of the rows' covariance in float64, the widest first, each
    with its largest entry positive, so that a table has one reduction. Nothing is scaled: distances of words are the
    teacher's as nearly as ``width`` numbers allow.

    Args:
        embeddings: ``[V, E]``.
        width: at most E.
    """
    rows = embeddings.detach().cpu().double()
    rows = rows - rows.mean(0)
    axes = torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1)[:, :width]  # eigenvalues ascend
    components: Tensor = rows @ (axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign())
    return components.float()


def fill_embeddings(options: StudentConfig, student: Any, teacher: Any) -> str:
    """Put word embeddings into a fresh student as its options say; what is left to be drawn, for ``Encoder.build``.

    Reduced ones keep the teacher's scale. Positions and segments, which are added to them before the first norm, are
    drawn as in any fresh student, and so weigh less than words, as they do in trained encoders.

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
        table.copy_(principal_components(source, width))
    return "all_but_embeddings"
