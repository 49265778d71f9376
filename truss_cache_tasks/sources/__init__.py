"""Request -> Listing and Location: one folder or module for each store. The bytes are fetched by `transfer/`."""
