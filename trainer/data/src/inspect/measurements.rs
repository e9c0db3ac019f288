//! Tables of measurements: what each column holds, whose rows they are, which repeat, and how well a plain model tells the label from all of
//! them, by subject and by row.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::{Inspection, Layout, column};
use crate::doctor::logistic;

/// What stands for a value that is not known.
const MISSING: [&str; 10] = ["", "na", "n/a", "nan", "null", "none", "?", ".", "-", "missing"];
/// A model of fewer rows of a class says nothing.
const LEAST: usize = 20;
/// A column of words with more of them is a name or a text.
const LEVELS: usize = 32;
/// Columns of the model, beyond which it is not fitted.
const WIDEST: usize = 512;

/// A column of a table of measurements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What it holds.
    #[serde(flatten)]
    pub kind: Kind,
    /// Rows without a value.
    pub missing: usize,
}

/// What a column holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Kind {
    /// Numbers only.
    Numeric {
        /// The smallest.
        least: f64,
        /// The largest.
        most: f64,
    },
    /// Words, a few of them again and again.
    Categorical {
        /// How many different ones.
        levels: usize,
    },
    /// Words that hardly repeat: names or texts, which no model gets.
    Text,
    /// Nothing, or the same in each row.
    Constant,
}

/// The values of a column, row by row.
enum Values {
    Numbers(Vec<Option<f64>>),
    Levels(Vec<Option<usize>>, usize),
    Other,
}

/// A table without images. Its rows may be several of one subject, also where no column says who that is: names that differ only in the
/// number at their end.
pub(super) fn measurements(header: &[String], rows: &[csv::StringRecord], label: usize) -> Inspection {
    let mut seen = Inspection::new(Layout::Measurements);
    seen.images = rows.len();
    let labels: Vec<&str> = rows.iter().map(|row| row.get(label).unwrap_or_default().trim()).collect();
    labels.iter().for_each(|label| seen.count(label, "all"));
    let named = column(header, &["patient", "patient_id", "subject", "subject_id", "subject#", "id", "name", "row.names"]);
    let subjects = named.map(|column| subjects(rows, column));
    if let (Some(column), Some((subjects, shortened))) = (named, &subjects) {
        let count = distinct(subjects);
        seen.patients = Some(count);
        if count < rows.len() {
            let by = if *shortened { ", without the number at its end," } else { "" };
            seen.notes.push(format!(
                "{} rows are of {count} subjects by column {:?}{by} so that a split of rows would put a subject into training and testing",
                rows.len(),
                header[column]
            ));
        }
    }
    let measured: Vec<usize> = (0..header.len()).filter(|column| *column != label && Some(*column) != named).collect();
    // A comma at the end of each line makes a column of nothing.
    let named_or_held = |(column, _): &(Column, Values)| !column.name.is_empty() || column.kind != Kind::Constant;
    let read: Vec<(Column, Values)> = measured.iter().map(|column| column_of(&header[*column], rows, *column)).filter(named_or_held).collect();
    seen.notes.extend(repeated(rows, &measured, &labels));
    let design: Vec<&Values> = read.iter().map(|(_, values)| values).collect();
    seen.notes.extend(told(&design, &labels, subjects.as_ref().map(|(subjects, _)| subjects.as_slice())));
    seen.columns = read.into_iter().map(|(column, _)| column).collect();
    seen.notes.push("there are no images: jobs train on images only".into());
    seen
}

/// Whose each row is, and whether the number at the end of the names was left out: it says something only if names share what is before it.
fn subjects(rows: &[csv::StringRecord], column: usize) -> (Vec<String>, bool) {
    let short = |name: &str| match name.rsplit_once('_').filter(|(_, number)| number.parse::<u32>().is_ok()) {
        Some((subject, _)) => subject.to_owned(),
        None => name.to_owned(),
    };
    let names: Vec<&str> = rows.iter().map(|row| row.get(column).unwrap_or_default().trim()).collect();
    let (plain, shortened): (Vec<String>, Vec<String>) =
        (names.iter().map(|name| (*name).to_owned()).collect(), names.iter().map(|name| short(name)).collect());
    if 2 * distinct(&shortened) <= distinct(&plain) { (shortened, true) } else { (plain, false) }
}

fn distinct(names: &[String]) -> usize {
    names.iter().collect::<BTreeSet<_>>().len()
}

fn column_of(name: &str, rows: &[csv::StringRecord], column: usize) -> (Column, Values) {
    let words: Vec<Option<&str>> = rows
        .iter()
        .map(|row| row.get(column).unwrap_or_default().trim())
        .map(|word| (!MISSING.iter().any(|missing| word.eq_ignore_ascii_case(missing))).then_some(word))
        .collect();
    let missing = words.iter().filter(|word| word.is_none()).count();
    let known: BTreeSet<&str> = words.iter().flatten().copied().collect();
    let number = |word: &str| word.parse::<f64>().ok().filter(|number| number.is_finite());
    let (kind, values) = if known.len() < 2 {
        (Kind::Constant, Values::Other)
    } else if known.iter().all(|word| number(word).is_some()) {
        let numbers: Vec<Option<f64>> = words.iter().map(|word| word.and_then(number)).collect();
        let range =
            numbers.iter().flatten().fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), number| (least.min(*number), most.max(*number)));
        (Kind::Numeric { least: range.0, most: range.1 }, Values::Numbers(numbers))
    } else if known.len() <= LEVELS {
        let place: HashMap<&str, usize> = known.iter().copied().zip(0..).collect();
        let levels = words.iter().map(|word| word.and_then(|word| place.get(word).copied())).collect();
        (Kind::Categorical { levels: known.len() }, Values::Levels(levels, known.len()))
    } else {
        (Kind::Text, Values::Other)
    };
    (Column { name: name.to_owned(), kind, missing }, values)
}

/// Rows with the same measurements, under one label and under several.
fn repeated(rows: &[csv::StringRecord], measured: &[usize], labels: &[&str]) -> Option<String> {
    let mut seen: HashMap<Vec<&str>, Vec<&str>> = HashMap::new();
    for (row, label) in rows.iter().zip(labels) {
        seen.entry(measured.iter().map(|column| row.get(*column).unwrap_or_default().trim()).collect()).or_default().push(label);
    }
    let groups: Vec<Vec<&str>> = seen.into_values().filter(|labels| labels.len() > 1).collect();
    let several = groups.iter().filter(|labels| labels.iter().any(|label| *label != labels[0])).count();
    let count: usize = groups.iter().map(Vec::len).sum();
    (count > 0).then(|| format!("{count} rows repeat the measurements of others, {several} times under another label"))
}

/// How well logistic regression tells the rarer of two labels, in cross-validation: the subjects of a fold are not trained on.
fn told(columns: &[&Values], labels: &[&str], subjects: Option<&[String]>) -> Option<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    labels.iter().for_each(|label| *counts.entry(label).or_default() += 1);
    let rarer = *counts.iter().min_by_key(|(_, count)| **count)?.0;
    let positive: Vec<bool> = labels.iter().map(|label| *label == rarer).collect();
    let width: usize = columns.iter().map(|values| width(values)).sum();
    if counts.len() != 2 || counts.values().any(|count| *count < LEAST) || width == 0 || width > WIDEST {
        return None;
    }
    let by_row: Vec<String> = (0..labels.len()).map(|row| row.to_string()).collect();
    let auroc = |who: &[String]| {
        let folds: Vec<usize> = who.iter().map(|name| logistic::fold(name)).collect();
        logistic::auroc(&logistic::out_of_fold(&positive, &folds, |trained| design(columns, trained)), &positive)
    };
    let shown = |found: (f64, f64)| {
        let (low, high) = logistic::interval(found);
        format!("{:.3} ({low:.3} to {high:.3})", found.0)
    };
    let several = subjects.filter(|subjects| distinct(subjects) < subjects.len());
    let model = format!("logistic regression of the {width} numbers of a row tells {rarer:?} with AUROC");
    Some(match several {
        Some(subjects) => {
            format!("{model} {} on subjects it has not seen; a split of rows would promise {}", shown(auroc(subjects)?), shown(auroc(&by_row)?))
        }
        None => format!("{model} {} on rows it has not seen", shown(auroc(subjects.unwrap_or(&by_row))?)),
    })
}

/// Numbers that a column gives to a model: its number and whether it is missing, or one for each word and for none.
fn width(values: &Values) -> usize {
    match values {
        Values::Numbers(numbers) => 1 + usize::from(numbers.contains(&None)),
        Values::Levels(_, levels) => levels + 1,
        Values::Other => 0,
    }
}

/// The numbers of all rows. A number that is missing is the median of the rows that are `trained` on.
fn design(columns: &[&Values], trained: &[bool]) -> Vec<Vec<f64>> {
    let mut rows = vec![Vec::new(); trained.len()];
    for values in columns {
        match values {
            Values::Numbers(numbers) => {
                let mut known: Vec<f64> = numbers.iter().zip(trained).filter(|(_, trained)| **trained).filter_map(|(number, _)| *number).collect();
                known.sort_by(f64::total_cmp);
                let median = super::median(&known).unwrap_or(0.0);
                let gaps = width(values) > 1;
                for (row, number) in rows.iter_mut().zip(numbers) {
                    row.push(number.unwrap_or(median));
                    row.extend(gaps.then(|| f64::from(u8::from(number.is_none()))));
                }
            }
            Values::Levels(own, levels) => {
                for (row, level) in rows.iter_mut().zip(own) {
                    row.extend((0..=*levels).map(|place| f64::from(u8::from(level.unwrap_or(*levels) == place))));
                }
            }
            Values::Other => {}
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> (Vec<String>, Vec<csv::StringRecord>) {
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let header = reader.headers().unwrap().iter().map(str::to_owned).collect();
        (header, reader.records().map(Result::unwrap).collect())
    }

    #[test]
    fn columns_are_numbers_words_texts_or_nothing() {
        let mut text = "id,age,sex,note,site,empty,label\n".to_owned();
        for i in 0..40 {
            let age = if i == 3 { "NA".to_owned() } else { (20 + i).to_string() };
            text.push_str(&format!("p{i},{age},{},text {i},north,?,{}\n", ["f", "m", ""][i % 3], i % 2));
        }
        let (header, rows) = table(&text);
        let seen = measurements(&header, &rows, 6);
        let kinds: Vec<(&str, &Kind, usize)> = seen.columns.iter().map(|column| (column.name.as_str(), &column.kind, column.missing)).collect();
        assert_eq!(
            kinds,
            [
                ("age", &Kind::Numeric { least: 20.0, most: 59.0 }, 1),
                ("sex", &Kind::Categorical { levels: 2 }, 13),
                ("note", &Kind::Text, 0),
                ("site", &Kind::Constant, 0),
                ("empty", &Kind::Constant, 40),
            ]
        );
        let numbers = [Values::Numbers(vec![Some(1.0), None, Some(3.0), Some(100.0)]), Values::Levels(vec![Some(0), None, Some(1), Some(1)], 2)];
        let rows = design(&numbers.iter().collect::<Vec<_>>(), &[true, true, true, false]);
        assert_eq!(rows[1], [2.0, 1.0, 0.0, 0.0, 1.0]);
        assert_eq!(rows[3], [100.0, 0.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn a_model_of_subjects_is_judged_on_others() {
        // Three rows of a subject are nearly equal, and say nothing of other subjects.
        let mut text = "subject,a,b,label\n".to_owned();
        for i in 0..240u64 {
            let (subject, noise) = (i / 3, i % 3);
            let hash = subject.wrapping_mul(2_654_435_761) % 1000;
            text.push_str(&format!("s{subject},{},{},{}\n", hash * 10 + noise, (hash * 7919) % 997, (hash / 7) % 2));
        }
        let (header, rows) = table(&text);
        let seen = measurements(&header, &rows, 3);
        assert_eq!(seen.patients, Some(80));
        assert!(seen.notes[0].starts_with("240 rows are of 80 subjects by column \"subject\" so that"), "{:?}", seen.notes);
        assert!(seen.notes.iter().any(|note| note.contains("on subjects it has not seen; a split of rows would promise")), "{:?}", seen.notes);
    }

    #[test]
    fn rows_that_repeat_are_counted() {
        let (header, rows) = table("a,b,label\n1,2,x\n1,2,x\n1,2,y\n3,4,x\n5,6,y\n5,6,y\n");
        let seen = measurements(&header, &rows, 2);
        assert!(seen.notes.contains(&"5 rows repeat the measurements of others, 1 times under another label".to_owned()), "{:?}", seen.notes);
    }
}
