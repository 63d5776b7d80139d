"""What `make docs` and `make site` do: pages that follow from the code, and the site."""
