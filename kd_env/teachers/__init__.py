"""Teachers: where their outputs come from, which are kept, and what is known of them."""
