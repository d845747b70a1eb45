CREATE TABLE IF NOT EXISTS sluice_data_key (
  table_name TEXT COLLATE "C" NOT NULL,
  id BIGINT NOT NULL,
  wrapped_by TEXT NOT NULL,
  wrapped BYTEA NOT NULL,
  created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  PRIMARY KEY (table_name, id)
);
COMMENT ON TABLE sluice_data_key IS 'keys of sealed bodies: without these rows nothing is readable; back them up with the trace table';
COMMENT ON COLUMN sluice_data_key.id IS 'random; sealed bodies carry it';
COMMENT ON COLUMN sluice_data_key.wrapped_by IS 'name in encryption.keys';
COMMENT ON COLUMN sluice_data_key.wrapped IS 'nonce, AES-256-GCM ciphertext, tag';

CREATE TABLE IF NOT EXISTS sluice_dictionary (
  table_name TEXT COLLATE "C" NOT NULL,
  id BIGINT NOT NULL,
  sealed BYTEA NOT NULL,
  permille INT4 NOT NULL,
  created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  PRIMARY KEY (table_name, id)
);
COMMENT ON TABLE sluice_dictionary IS 'dictionaries of sealed bodies: without these rows nothing is readable; back them up with the trace table';
COMMENT ON COLUMN sluice_dictionary.id IS 'from 1; sealed bodies carry it';
COMMENT ON COLUMN sluice_dictionary.sealed IS 'header, AES-256-GCM ciphertext of a zstd dictionary, tag';
COMMENT ON COLUMN sluice_dictionary.permille IS 'what it shrank bodies to when it was trained';
