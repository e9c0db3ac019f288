//! `bench NAME`: one benchmark; `bench list` shows them.

fn main() -> anyhow::Result<()> {
    graft_tests::bench::run(&std::env::args().nth(1).unwrap_or_else(|| "list".into()))
}
