"""Tutor-KD's policy over tokens."""
