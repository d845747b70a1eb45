-- What sealed bodies need to be read again: without these rows nothing is readable. Back them up with the trace table.
CREATE TABLE IF NOT EXISTS sluice_data_key (
  table_name TEXT NOT NULL,
  id INTEGER NOT NULL,               -- random; sealed bodies carry it
  wrapped_by TEXT NOT NULL,          -- name in encryption.keys
  wrapped BLOB NOT NULL,             -- nonce, AES-256-GCM ciphertext, tag
  created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  PRIMARY KEY (table_name, id)
) STRICT;

CREATE TABLE IF NOT EXISTS sluice_dictionary (
  table_name TEXT NOT NULL,
  id INTEGER NOT NULL,               -- from 1; sealed bodies carry it
  sealed BLOB NOT NULL,              -- header, AES-256-GCM ciphertext of a zstd dictionary, tag
  permille INTEGER NOT NULL,         -- what it shrank bodies to when it was trained
  created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  PRIMARY KEY (table_name, id)
) STRICT;
