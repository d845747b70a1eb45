CREATE TABLE IF NOT EXISTS sluice_dead_letter_unsent (
  table_name TEXT COLLATE "C" NOT NULL,
  id BIGINT NOT NULL,
  stream INT4 NOT NULL,
  PRIMARY KEY (table_name, id)
);
COMMENT ON TABLE sluice_dead_letter_unsent IS 'dead letters that no topic has taken yet; rows exist only where the pipeline names one (deadLetter.topic)';
COMMENT ON COLUMN sluice_dead_letter_unsent.stream IS 'tells whose topic it is for: the pipeline that reads this stream';
