//! What a manifest says of an image: its class, or which findings it shows. Findings come as a list, `A|B` as ChestX-ray14
//! has it, or in a column each, 1, 0, and -1 or nothing for unknown as CheXpert has it.

/// What labels say.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Labels<'a> {
    /// The one class of an image.
    Class,
    /// Which of these findings it shows.
    Findings(&'a [String]),
    /// The number of a regression task.
    Number,
}

/// Positions of the columns with the labels.
pub(crate) enum LabelColumns<'a> {
    /// The class.
    Class(usize),
    /// The number.
    Number(usize),
    /// All findings that are there.
    List(usize, Known<'a>),
    /// One column for each finding.
    Each(Vec<usize>, &'a [String]),
}

/// The findings that a list may name.
pub(crate) struct Known<'a> {
    classes: &'a [String],
    /// The classes as [`plain`] writes them.
    plain: Vec<String>,
}

impl<'a> Known<'a> {
    pub(crate) fn new(classes: &'a [String]) -> Self {
        Self { classes, plain: classes.iter().map(|class| plain(class)).collect() }
    }

    /// What a list such as `A|B` says. A name that is none of the classes is a finding that nobody asked for, unless it is one of
    /// them written otherwise.
    fn listed(&self, text: &str) -> Told {
        let mut findings = vec![Some(false); self.classes.len()];
        let mut empty = true;
        for name in text.split('|').map(str::trim).filter(|name| !name.is_empty()) {
            empty = false;
            match self.classes.iter().position(|class| class == name) {
                Some(class) => findings[class] = Some(true),
                None if self.plain.iter().any(|class| class.chars().eq(letters(name))) => return Told::Odd(format!("{name:?}")),
                None => {}
            }
        }
        if empty { Told::Nothing } else { Told::Findings(told(self.classes, &findings), findings) }
    }
}

/// What a row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// The class, or a number as Rust writes it.
    Class(String),
    /// The findings, as [`told`] writes them and one by one.
    Findings(String, Vec<Option<bool>>),
    /// Nothing.
    Nothing,
    /// What cannot be understood.
    Odd(String),
}

impl<'a> LabelColumns<'a> {
    /// A column for each finding, if there is one of each name.
    pub(crate) fn each(names: &[&str], classes: &'a [String]) -> Option<Self> {
        let position = |class: &String| names.iter().position(|name| name == class);
        Some(Self::Each(classes.iter().map(position).collect::<Option<_>>()?, classes))
    }

    /// What a row says.
    pub(crate) fn told(&self, row: &csv::StringRecord) -> Told {
        let at = |index: usize| row.get(index).unwrap_or_default().trim();
        match self {
            Self::Class(index) => Told::Class(at(*index).to_owned()),
            Self::Number(index) => number(at(*index)),
            Self::List(index, known) => known.listed(at(*index)),
            Self::Each(columns, classes) => {
                let mut findings = Vec::with_capacity(columns.len());
                for index in columns {
                    findings.push(match at(*index) {
                        "1" | "1.0" | "true" | "True" => Some(true),
                        "0" | "0.0" | "false" | "False" => Some(false),
                        "" | "-1" | "-1.0" => None,
                        other => return Told::Odd(format!("{other:?}")),
                    });
                }
                Told::Findings(told(classes, &findings), findings)
            }
        }
    }
}

/// A number, written in one way however the manifest writes it.
fn number(text: &str) -> Told {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Told::Class(number.to_string()),
        _ if text.is_empty() => Told::Nothing,
        _ => Told::Odd(format!("{text:?}")),
    }
}

/// The findings that are there, `A|B`, and those that are not known, `C?`.
pub(crate) fn told(classes: &[String], findings: &[Option<bool>]) -> String {
    let mut text = String::new();
    for (class, finding) in classes.iter().zip(findings).filter(|(_, finding)| **finding != Some(false)) {
        if !text.is_empty() {
            text.push('|');
        }
        text.push_str(class);
        if finding.is_none() {
            text.push('?');
        }
    }
    text
}

/// A name without case, spaces and underscores: names that are alike here are taken for the same by people.
pub(crate) fn plain(name: &str) -> String {
    letters(name).collect()
}

/// Words with fewer letters than this may differ by one and mean something else.
const SLIP: usize = 6;

/// Whether two names are alike but for one slip of the pen within a word: a letter too many, too few, another or two that
/// are swapped; or a plural. Numbers, single letters, and what stands at the beginning of a word (`typical`, `atypical`) mean something.
pub(crate) fn slip(one: &str, other: &str) -> bool {
    let (one, other) = (words(one), words(other));
    let mut differ = one.iter().zip(&other).filter(|(a, b)| a != b);
    match (one.len() == other.len(), differ.next(), differ.next()) {
        (true, Some((a, b)), None) => slip_in_word(a, b) || slip_in_word(b, a),
        _ => false,
    }
}

/// The words and numbers of a name, in lower case: `PleuralEffusion_2` has three.
fn words(name: &str) -> Vec<Vec<char>> {
    let mut words: Vec<Vec<char>> = Vec::new();
    let mut last = ' ';
    for letter in name.chars() {
        let goes_on = if letter.is_alphabetic() { last.is_alphabetic() && (last.is_uppercase() || letter.is_lowercase()) } else { last.is_numeric() };
        match words.last_mut() {
            _ if !letter.is_alphanumeric() => {}
            Some(word) if goes_on => word.extend(letter.to_lowercase()),
            _ => words.push(letter.to_lowercase().collect()),
        }
        last = letter;
    }
    words
}

/// Whether `long` is `short` with one slip; it is at least as long.
fn slip_in_word(long: &[char], short: &[char]) -> bool {
    if short.len() < SLIP || !long.iter().chain(short).all(|letter| letter.is_alphabetic()) {
        return false;
    }
    let same = |(a, b): &(&char, &char)| a == b;
    let begin = long.iter().zip(short).take_while(same).count();
    let end = long[begin..].iter().rev().zip(short[begin..].iter().rev()).take_while(same).count();
    let (long, short) = (&long[begin..long.len() - end], &short[begin..short.len() - end]);
    match (long, short) {
        (['s'], []) => begin > 0,
        ([_], [] | [_]) => begin > 0 && end > 0,
        ([a, b], [c, d]) => a == d && b == c,
        _ => false,
    }
}

fn letters(name: &str) -> impl Iterator<Item = char> {
    name.chars().filter(|letter| !letter.is_whitespace() && *letter != '_').flat_map(char::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes() -> Vec<String> {
        ["Edema", "Mass", "Pleural Thickening"].map(str::to_owned).to_vec()
    }

    #[test]
    fn lists_name_what_is_there() {
        let classes = classes();
        let known = Known::new(&classes);
        let said = |text: &str| known.listed(text);
        assert_eq!(said("Mass| Edema"), Told::Findings("Edema|Mass".into(), vec![Some(true), Some(true), Some(false)]));
        assert_eq!(said("No Finding"), Told::Findings(String::new(), vec![Some(false); 3]));
        assert_eq!(said(" | "), Told::Nothing);
        assert_eq!(said("Mass|pleural_thickening"), Told::Odd("\"pleural_thickening\"".into()));
    }

    #[test]
    fn slips_of_the_pen_are_told_from_names_of_their_own() {
        for (one, other) in [
            ("Pneumonia", "Pnuemonia"),
            ("pneumonia", "Pneumona"),
            ("Effusion", "Efusion"),
            ("Pleural_Effusion", "pleural effussion"),
            ("PleuralThickening", "PleuralThickenning"),
            ("melanoma", "melanomas"),
            ("melanoma", "melamoma"),
            ("Karzinom links", "Karznom links"),
        ] {
            assert!(slip(one, other) && slip(other, one), "{one} {other}");
        }
        for (one, other) in [
            ("grade1", "grade2"),
            ("T1", "T2"),
            ("grade 11", "grade 12"),
            ("ball_007", "ball_014"),
            ("class_a", "class_b"),
            ("classa", "classb"),
            ("stageI", "stageII"),
            ("stagei", "stageii"),
            ("Stage III", "Stage II"),
            ("typical", "atypical"),
            ("symptomatic", "asymptomatic"),
            ("anterior", "interior"),
            ("afferent", "efferent"),
            ("benign", "malign"),
            ("hypotension", "hypertension"),
            ("normal", "Normal"),
            ("edema", "edem"),
            ("covid", "covidpositive"),
            ("pneumonia viral", "pneumonia bacterial"),
            ("left lung nodule", "right lung nodule"),
            ("", ""),
        ] {
            assert!(!slip(one, other) && !slip(other, one), "{one} {other}");
        }
    }

    #[test]
    fn numbers_are_finite_and_written_in_one_way() {
        for (text, expected) in [("63.50", "63.5"), ("-1e3", "-1000"), ("0", "0")] {
            assert_eq!(number(text), Told::Class(expected.into()));
        }
        for odd in ["58Y", "3,5", "nan", "inf", "1e999"] {
            assert_eq!(number(odd), Told::Odd(format!("{odd:?}")));
        }
        assert_eq!(number(""), Told::Nothing);
    }

    #[test]
    fn columns_hold_yes_no_and_unknown() {
        let classes = classes();
        let columns = LabelColumns::each(&["Path", "Mass", "Edema", "Sex", "Pleural Thickening"], &classes).unwrap();
        let said = |row: [&str; 5]| columns.told(&csv::StringRecord::from(row.to_vec()));
        assert_eq!(said(["a.jpg", "1.0", "-1.0", "F", ""]), Told::Findings("Edema?|Mass|Pleural Thickening?".into(), vec![None, Some(true), None]));
        assert_eq!(said(["a.jpg", "0", "1", "F", "0.0"]), Told::Findings("Edema".into(), vec![Some(true), Some(false), Some(false)]));
        assert_eq!(said(["a.jpg", "true", "False", "F", "0"]), Told::Findings("Mass".into(), vec![Some(false), Some(true), Some(false)]));
        assert_eq!(said(["a.jpg", "yes", "1", "F", "0"]), Told::Odd("\"yes\"".into()));
        assert!(LabelColumns::each(&["Mass", "Edema"], &classes).is_none());
    }
}
