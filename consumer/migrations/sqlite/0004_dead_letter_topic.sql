-- Dead letters that no topic has taken yet. Rows exist only where the pipeline names one (`deadLetter.topic`).
CREATE TABLE IF NOT EXISTS sluice_dead_letter_unsent (
  table_name TEXT NOT NULL,
  id INTEGER NOT NULL,               -- of the dead letter
  stream INTEGER NOT NULL,           -- tells whose topic it is for: the pipeline that reads this stream
  PRIMARY KEY (table_name, id)
) STRICT;
