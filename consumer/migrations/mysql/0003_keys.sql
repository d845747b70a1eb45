-- What sealed bodies need to be read again: without these rows nothing is readable. Back them up with the trace table.
CREATE TABLE IF NOT EXISTS sluice_data_key (
  table_name VARBINARY(64) NOT NULL,
  id INT UNSIGNED NOT NULL COMMENT 'random; sealed bodies carry it',
  wrapped_by VARBINARY(64) NOT NULL COMMENT 'name in encryption.keys',
  wrapped VARBINARY(255) NOT NULL COMMENT 'nonce, AES-256-GCM ciphertext, tag',
  created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
  PRIMARY KEY (table_name, id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE IF NOT EXISTS sluice_dictionary (
  table_name VARBINARY(64) NOT NULL,
  id INT UNSIGNED NOT NULL COMMENT 'from 1; sealed bodies carry it',
  sealed MEDIUMBLOB NOT NULL COMMENT 'header, AES-256-GCM ciphertext of a zstd dictionary, tag',
  permille INT UNSIGNED NOT NULL COMMENT 'what it shrank bodies to when it was trained',
  created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
  PRIMARY KEY (table_name, id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
