-- Dead letters that no topic has taken yet. Rows exist only where the pipeline names one (`deadLetter.topic`).
CREATE TABLE IF NOT EXISTS sluice_dead_letter_unsent (
  table_name VARBINARY(64) NOT NULL,
  id BIGINT UNSIGNED NOT NULL COMMENT 'of the dead letter',
  stream SMALLINT UNSIGNED NOT NULL COMMENT 'tells whose topic it is for: the pipeline that reads this stream',
  PRIMARY KEY (table_name, id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
