CREATE TABLE IF NOT EXISTS sluice_redrive (
  table_name TEXT COLLATE "C" NOT NULL,
  id BIGINT NOT NULL,
  topic TEXT NOT NULL,
  "partition" INT4 NOT NULL,
  pending INT4 NOT NULL,
  attempts INT4 NOT NULL,
  history TEXT NOT NULL,
  PRIMARY KEY (table_name, id)
);
CREATE INDEX IF NOT EXISTS sluice_redrive_pending ON sluice_redrive (table_name, pending, topic, "partition");
COMMENT ON TABLE sluice_redrive IS 'dead letters that somebody wants to be stored after all, and what became of earlier tries';
COMMENT ON COLUMN sluice_redrive.pending IS '1: waits for its lane';
COMMENT ON COLUMN sluice_redrive.attempts IS 'how often it was redriven and failed again';
COMMENT ON COLUMN sluice_redrive.history IS 'JSON list of the earlier failures, oldest first';
