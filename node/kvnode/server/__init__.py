"""One member: its log, its state, its peers, and the turns that drive them."""
