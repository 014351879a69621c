"""Data files with something wrong, and what a person must be told of each.

files/    those that can be stored as they are
made.py   those that cannot: huge, packed, links, Parquet, places that may not be read
cases.py  the table: file -> what must be said
"""
