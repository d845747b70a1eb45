-- Dead letters that somebody wants to be stored after all, and what became of earlier tries.
CREATE TABLE IF NOT EXISTS sluice_redrive (
  table_name VARBINARY(64) NOT NULL,
  id BIGINT UNSIGNED NOT NULL COMMENT 'of the dead letter',
  topic VARBINARY(255) NOT NULL COMMENT 'of the dead letter: its lane looks here',
  `partition` INT NOT NULL,
  pending INT NOT NULL COMMENT '1: waits for its lane',
  attempts INT NOT NULL COMMENT 'how often it was redriven and failed again',
  history MEDIUMTEXT NOT NULL COMMENT 'JSON list of the earlier failures, oldest first',
  PRIMARY KEY (table_name, id),
  KEY sluice_redrive_pending (table_name, pending, topic, `partition`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
