"""The processes of one run: what they agree on, and what stops them."""
