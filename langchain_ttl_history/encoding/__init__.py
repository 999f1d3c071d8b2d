"""Python values as bytes: plain data, messages, and objects of allowed types. `codec` puts these parts together."""
