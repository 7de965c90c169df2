"""Networks and the distributions that stand on them."""
