//! The fuzzer: libFuzzer around the target that `SLUICE_FUZZ_TARGET` names. Built and run by `tests/fuzz`.

#![no_main]

use std::sync::LazyLock;

use sluice_fuzz::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("SLUICE_FUZZ_TARGET").unwrap_or_default();
    Target::named(&name).unwrap_or_else(|| {
        panic!("SLUICE_FUZZ_TARGET is {name:?}, expected one of {:?}", TARGETS.map(|(name, _)| name))
    })
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.check(data));
