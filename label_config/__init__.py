"""The labeling interfaces of the three Label Studio projects, and the names of their controls."""
