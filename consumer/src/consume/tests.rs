use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn parse(words: &str) -> Result<Args, String> {
    let words = std::iter::once("consume").chain(words.split_whitespace());
    Cli::try_parse_from(words).map(|cli| cli.args).map_err(|error| error.to_string())
}

#[test]
fn the_operators_command_line_is_accepted() {
    let args = parse(
        "--settings /etc/sluice/settings/settings.json --live-config-map observability/traces-live \
         --live-dir /etc/sluice/live --secrets-dir /etc/sluice/secrets --data-dir /var/lib/sluice \
         --admin 0.0.0.0:9464",
    )
    .unwrap();
    assert_eq!(args.live_config_map.unwrap().to_string(), "observability/traces-live");
    assert!(args.file.is_none());
}

#[test]
fn a_pipeline_comes_from_one_place_and_settings_need_a_live_document() {
    assert!(parse("-f pipeline.yaml").is_ok());
    assert!(parse("--settings s.json --live-dir d").is_ok());
    assert!(parse("--settings s.json --live-config-map ns/name").is_ok());
    for wrong in [
        "",
        "--settings s.json",
        "--live-dir d",
        "-f pipeline.yaml --settings s.json --live-dir d",
        "-f pipeline.yaml --live-dir d",
        "--settings s.json --live-config-map name",
        "--settings s.json --live-config-map Ns/name",
        "--settings s.json --live-config-map a/b/c",
    ] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}
