//! The command line of `sluice replay`.

use std::path::PathBuf;

use super::plan::Point;
use crate::out::Output;
use crate::pipeline_args::Folders;

/// Read a part of the topic once more, beside the pipeline and within its rate.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  How much would it be?
    sluice replay -f pipeline.yaml --from 2030-01-31T06:00:00Z --to 2030-01-31T08:00:00Z --dry-run
  The table was emptied: everything up to where the pipeline stands, at most 2000 spans a second
    sluice replay -f pipeline.yaml --name lost-table --from earliest --rate 2000 --yes
  The last two hours into another table
    sluice replay -f pipeline.yaml --name look --from 2h --table connectivity_trace_copy
  Some offsets of one partition
    sluice replay -f pipeline.yaml --name piece --partition 3 --from 1200 --to 1300 --yes

A replay does not know which spans are in the table: those that still are get a second row. Remove them first, or
choose another --table. It ends where the pipeline stands, unless --to says otherwise, so what the pipeline has yet to
store is not stored twice. What cannot be stored becomes a dead letter beside the table: sluice dead-letters list --table.

Stopped or killed, it goes on where it was when the same command is run again: range and progress are kept in the
database under --name. It shares the rate that the file sets, as one more replica; saving the file with another rate
takes effect at once, and a suspended pipeline suspends its replay. In a cluster, take the file from the cluster:
  kubectl get tracepipeline NAME -o yaml > pipeline.yaml")]
pub struct Args {
    /// The TracePipeline, as YAML; edits of its live fields take effect.
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// Names the replay: the same name goes on with the same range.
    #[arg(long, value_name = "NAME", value_parser = name, required_unless_present = "dry_run")]
    pub name: Option<String>,
    /// Where to begin: earliest, an offset (with --partition), a time in RFC 3339, or how long ago (90m, 2h, 30d).
    #[arg(long, value_name = "POINT", value_parser = Point::from)]
    pub from: Point,
    /// Where to end, exclusive: latest, an offset, or a time (before the first message made then or later, also where one
    /// behind it was made earlier). Default: where the pipeline stands.
    #[arg(long, value_name = "POINT", value_parser = Point::to)]
    pub to: Option<Point>,
    /// Only this topic of the pipeline's.
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// Only this partition.
    #[arg(long, value_name = "N")]
    pub partition: Option<i32>,
    /// Store into this table of the same database, instead of the pipeline's; created where it does not exist.
    #[arg(long, value_name = "TABLE")]
    pub table: Option<String>,
    /// Most spans a second, within the pipeline's rate. Default: the pipeline's rate alone.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// Only say what would be read.
    #[arg(long)]
    pub dry_run: bool,
    /// Really store into the pipeline's own table, where spans that are still there get a second row.
    #[arg(long)]
    pub yes: bool,
    /// How to tell the progress; in JSON a document a line.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Where Secrets and SQLite databases lie.
    #[command(flatten)]
    pub folders: Folders,
}

fn name(text: &str) -> Result<String, String> {
    let legal = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    let good = (1..=32).contains(&text.len()) && text.chars().all(legal);
    good.then(|| text.to_owned()).ok_or_else(|| "expected 1 to 32 letters, digits, '-' or '_'".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_leave_room_for_what_is_made_of_them() {
        assert_eq!(name("lost-table_2"), Ok("lost-table_2".to_owned()));
        for wrong in ["", "a.end", "a b", "ü", &"a".repeat(33)] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
    }
}
