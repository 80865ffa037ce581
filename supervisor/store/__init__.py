"""The store: the only process that writes a database (DESIGN §2.1).

`ledger` is our own memory, `projection` and its targets bring it to the files that the site's tools read. Nothing here
decides anything about an incident.
"""
