-- Dead letters that somebody wants to be stored after all, and what became of earlier tries.
CREATE TABLE IF NOT EXISTS sluice_redrive (
  table_name TEXT NOT NULL,
  id INTEGER NOT NULL,               -- of the dead letter
  topic TEXT NOT NULL,               -- of the dead letter: its lane looks here
  "partition" INTEGER NOT NULL,
  pending INTEGER NOT NULL,          -- 1: waits for its lane
  attempts INTEGER NOT NULL,         -- how often it was redriven and failed again
  history TEXT NOT NULL,             -- JSON list of the earlier failures, oldest first
  PRIMARY KEY (table_name, id)
) STRICT;
CREATE INDEX IF NOT EXISTS sluice_redrive_pending ON sluice_redrive (table_name, pending, topic, "partition");
