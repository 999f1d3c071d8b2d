"""`python -m langchain_ttl_history.cli`, where the script `ttl-history` is not on the path."""

from langchain_ttl_history.cli import main

main()
