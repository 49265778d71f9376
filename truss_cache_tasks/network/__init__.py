"""What listings and transfers share: settings, connections, limits of a request, retry rules, cancelling."""
