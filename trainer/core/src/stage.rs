//! What a run does next, given what earlier attempts left behind. Pure and total: the same observation always gives the
//! same answer, and it never skips a stage whose output is not there.

use std::collections::BTreeSet;

use graft_crds::contract::Stage;

/// What is safely on the disk, and belongs to these very inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durable {
    /// Stages whose whole output is there under the digest of their inputs.
    pub finished: BTreeSet<Stage>,
    /// Stage and finished epochs of the newest valid checkpoint.
    pub checkpoint: Option<(Stage, u64)>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Begin this stage.
    Begin(Stage),
    /// Go on with this stage after so many epochs.
    Resume {
        /// The stage.
        stage: Stage,
        /// Epochs that are done.
        epochs: u64,
    },
    /// Nothing is left to do.
    Finished,
}

/// The stages of a job in order. Fine-tuning is left out when none is asked for.
#[must_use]
pub fn stages(fine_tune: Option<&graft_crds::spec::FineTune>) -> Vec<Stage> {
    let mut stages = vec![Stage::Prepare];
    stages.extend(fine_tune.map(|_| Stage::FineTune));
    stages.extend([Stage::Features, Stage::Head, Stage::Evaluate]);
    stages
}

/// The next thing to do. [`Stage::Prepare`] leaves nothing behind, so each attempt does it again unless all is finished;
/// `prepared` says whether this attempt has. A later stage's output never stands in for an earlier one's: the earlier one
/// is made again, and the later one with it if its inputs then differ.
#[must_use]
pub fn next(stages: &[Stage], durable: &Durable, prepared: Prepared) -> Next {
    let open = stages.iter().copied().find(|stage| *stage != Stage::Prepare && !durable.finished.contains(stage));
    let Some(stage) = open else { return Next::Finished };
    if stages.contains(&Stage::Prepare) && prepared == Prepared::No {
        return Next::Begin(Stage::Prepare);
    }
    match durable.checkpoint {
        Some((of, epochs)) if of == stage && epochs > 0 => Next::Resume { stage, epochs },
        Some(_) | None => Next::Begin(stage),
    }
}

/// Whether this attempt has read and checked weights and data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// It has.
    Yes,
    /// It has not.
    No,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Stage; 5] = [Stage::Prepare, Stage::FineTune, Stage::Features, Stage::Head, Stage::Evaluate];

    #[test]
    fn a_run_goes_through_its_stages_and_resumes() {
        let durable = |finished: &[Stage], checkpoint| Durable { finished: finished.iter().copied().collect(), checkpoint };
        assert_eq!(next(&ALL, &durable(&[], None), Prepared::No), Next::Begin(Stage::Prepare));
        assert_eq!(next(&ALL, &durable(&[], None), Prepared::Yes), Next::Begin(Stage::FineTune));
        assert_eq!(next(&ALL, &durable(&[], Some((Stage::FineTune, 3))), Prepared::Yes), Next::Resume { stage: Stage::FineTune, epochs: 3 });
        assert_eq!(next(&ALL, &durable(&[Stage::FineTune], Some((Stage::FineTune, 3))), Prepared::Yes), Next::Begin(Stage::Features));
        assert_eq!(next(&ALL, &durable(&[Stage::Features, Stage::Head], None), Prepared::Yes), Next::Begin(Stage::FineTune));
        assert_eq!(next(&ALL, &durable(&ALL[1..], None), Prepared::No), Next::Finished);
        assert_eq!(stages(None), [Stage::Prepare, Stage::Features, Stage::Head, Stage::Evaluate]);
        assert_eq!(stages(Some(&serde_json::from_str("{}").unwrap())), ALL);
    }

    proptest! {
        #[test]
        fn doing_what_comes_next_ends(finished in prop::collection::btree_set(0usize..5, 0..5), epochs in 0u64..4, at in 0usize..5) {
            let mut durable = Durable { finished: finished.into_iter().map(|i| ALL[i]).collect(), checkpoint: Some((ALL[at], epochs)) };
            let mut prepared = Prepared::No;
            for _ in 0..ALL.len() {
                match next(&ALL, &durable, prepared) {
                    Next::Finished => break,
                    Next::Begin(Stage::Prepare) => prepared = Prepared::Yes,
                    Next::Begin(stage) | Next::Resume { stage, .. } => {
                        prop_assert!(durable.finished.insert(stage), "{stage:?} was done twice");
                    }
                }
            }
            prop_assert_eq!(next(&ALL, &durable, prepared), Next::Finished);
        }
    }
}
