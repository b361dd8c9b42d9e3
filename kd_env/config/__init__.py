"""Options as frozen dataclasses, checked where they are made."""
