"""What listings and bytes share of the network: the rules of trying again, and bounds for a request."""
