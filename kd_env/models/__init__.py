"""Encoders as functions, students, masked language models, and what makes their layers fit."""
