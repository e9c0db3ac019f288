//! Personal data where a job would carry it on: the paths of images stand in predictions, reports and messages, so they must not
//! be made from names, birth dates, telephone numbers or record numbers; and a manifest with a column of them has no business
//! on a training cluster. Only what can hardly be anything else is taken for such: a date alone is no birth date, and a word no name.

use std::sync::LazyLock;

use regex::RegexSet;

/// What a piece of text looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Personal {
    /// A person's name.
    Name,
    /// A date of birth.
    BirthDate,
    /// A telephone number, or an address for e-mail.
    Contact,
    /// The number of a medical record or of an insurance.
    RecordNumber,
}

impl Personal {
    /// In words, after "looks like".
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Name => "a person's name",
            Self::BirthDate => "a date of birth",
            Self::Contact => "a telephone number or an e-mail address",
            Self::RecordNumber => "a record number",
        }
    }
}

/// Columns by their names as [`plain`] writes them, in English, German, French, Spanish, Italian and Portuguese. `name`, `nom`,
/// `nome` and `nombre` alone name files as often as people, and an address may be that of a web page.
const COLUMNS: &[(Personal, &str)] = &[
    (Personal::Name, "patientname patientsname firstname lastname surname givenname familyname middlename fullname personname"),
    (Personal::Name, "othernames maidenname"),
    (Personal::Name, "nachname vorname familienname geburtsname zuname patientenname"),
    (Personal::Name, "prenom nomdefamille nomfamille nompatient nomdupatient nomprenom nometprenom"),
    (Personal::Name, "apellido apellidos primerapellido segundoapellido nombrepaciente nombredelpaciente nombrecompleto"),
    (Personal::Name, "nombreyapellidos nombresyapellidos"),
    (Personal::Name, "cognome nomepaziente nomedelpaziente nomecognome nomeecognome cognomenome cognomeenome"),
    (Personal::Name, "sobrenome apelido nomepaciente nomedopaciente nomecompleto"),
    (Personal::BirthDate, "dob birthdate dateofbirth birthday dateofbirthdob"),
    (Personal::BirthDate, "geburtsdatum geburtstag gebdatum gebdat"),
    (Personal::BirthDate, "datenaissance datedenaissance datenaiss"),
    (Personal::BirthDate, "fechanacimiento fechadenacimiento fechanac"),
    (Personal::BirthDate, "datanascita datadinascita"),
    (Personal::BirthDate, "datanascimento datadenascimento"),
    (Personal::Contact, "phone phonenumber telephone telephonenumber mobilephone email emailaddress homeaddress streetaddress"),
    (Personal::Contact, "telefon telefonnummer handynummer mobilnummer emailadresse anschrift"),
    (Personal::Contact, "numerotelephone numerodetelephone courriel adresseemail"),
    (Personal::Contact, "telefono numerotelefono numerodetelefono correoelectronico"),
    (Personal::Contact, "numeroditelefono postaelettronica"),
    (Personal::Contact, "telefone numerotelefone numerodetelefone correioeletronico"),
    (Personal::RecordNumber, "mrn medicalrecordnumber ssn socialsecuritynumber nhsnumber insurancenumber passportnumber accessionnumber"),
    (Personal::RecordNumber, "versichertennummer krankenversichertennummer versicherungsnummer sozialversicherungsnummer"),
    (Personal::RecordNumber, "numerosecuritesociale numerodesecuritesociale"),
    (Personal::RecordNumber, "numerohistoriaclinica numerodehistoriaclinica numeroseguridadsocial numerodeseguridadsocial"),
    (Personal::RecordNumber, "codicefiscale tesserasanitaria"),
    (Personal::RecordNumber, "cartaosus"),
];

/// What may stand before one of those names.
const OWNERS: [&str; 7] = ["patients", "patienten", "patient", "paciente", "paziente", "subjects", "subject"];

/// A name in lower case without accents and without anything but letters and digits.
fn plain(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    for letter in name.chars().flat_map(char::to_lowercase) {
        match letter {
            'a'..='z' | '0'..='9' => plain.push(letter),
            'á' | 'à' | 'â' | 'ã' | 'ä' => plain.push('a'),
            'é' | 'è' | 'ê' | 'ë' => plain.push('e'),
            'í' | 'ì' | 'î' | 'ï' => plain.push('i'),
            'ó' | 'ò' | 'ô' | 'õ' | 'ö' => plain.push('o'),
            'ú' | 'ù' | 'û' | 'ü' => plain.push('u'),
            'ç' => plain.push('c'),
            'ñ' => plain.push('n'),
            _ => {}
        }
    }
    plain
}

/// What a column's name says it holds.
pub(crate) fn column(name: &str) -> Option<Personal> {
    let plain = plain(name);
    let named = |name: &str| COLUMNS.iter().find(|(_, names)| names.split(' ').any(|known| known == name)).map(|(kind, _)| *kind);
    named(&plain).or_else(|| OWNERS.iter().find_map(|owner| named(plain.strip_prefix(owner)?)))
}

/// Columns in which a scanner writes what it did, `Head^Routine`, by a part of their names.
const PROCEDURES: [&str; 7] = ["desc", "protocol", "procedure", "exam", "series", "study", "sequence"];

/// What the value of a column looks like. Less is taken for personal than in a path: `Effusion, Mass` is a list, `+0.12345678` a number, and
/// what was done in an examination may be written as DICOM writes names.
pub(crate) fn value(column: &str, text: &str) -> Option<Personal> {
    // Most values are numbers and words of one kind of letters, in which no pattern can be found.
    if text.bytes().all(|letter| letter.is_ascii_alphabetic()) || (text.contains(['.', 'e', 'E']) && text.parse::<f64>().is_ok()) {
        return None;
    }
    let procedure = || {
        let column = plain(column);
        PROCEDURES.iter().any(|part| column.contains(part))
    };
    let all = ALL.as_ref()?;
    let counts = |pattern: &usize| match *pattern {
        CARET => !procedure(),
        COMMA => false,
        _ => true,
    };
    let first = all.is_match(text).then(|| all.matches(text).into_iter().find(counts)).flatten()?;
    PATTERNS.get(first).map(|(kind, _)| *kind)
}

/// Place in [`PATTERNS`] of a name as DICOM writes it.
const CARET: usize = 0;
/// Place in [`PATTERNS`] of a name as an index writes it.
const COMMA: usize = 1;

const PATTERNS: &[(Personal, &str)] = &[
    // As DICOM writes a name, DOE^JOHN, and as an index does: Doe, John.
    (Personal::Name, r"[A-Za-z]{2,}\^[A-Za-z]"),
    (Personal::Name, r"(^|[^A-Za-z])[A-Z][A-Za-z'-]+,[ _]?[A-Z][a-z]+"),
    (Personal::Name, r"(?i)(^|[^a-z])(patient|first|last|sur|given|family)[ _-]?name[ _=:-]+[a-z]{2,}"),
    (
        Personal::BirthDate,
        r"(?i)(^|[^a-z])(dob|born|birth[ _-]?(date|day)|geb)[ _=:.-]*([0-9]{8}|[0-9]{4}[-._][0-9]{2}[-._][0-9]{2}|[0-9]{2}[-._][0-9]{2}[-._][0-9]{4})",
    ),
    (Personal::Contact, r"[A-Za-z0-9._+-]+@[A-Za-z0-9-]+\.[A-Za-z]{2,}"),
    (Personal::Contact, r"\+[0-9]{1,3}[ .-]?\(?[0-9]{2,4}\)?[ .-]?[0-9]{3}[ .-]?[0-9]{3,4}"),
    (Personal::Contact, r"\([0-9]{3}\) ?[0-9]{3}-[0-9]{4}"),
    (Personal::RecordNumber, r"(?i)(^|[^a-z])mrn[ _#:=-]*[0-9]{4,}"),
    (Personal::RecordNumber, r"(^|[^0-9])[0-9]{3}-[0-9]{2}-[0-9]{4}([^0-9]|$)"),
];

/// All patterns at once, so that a path is gone through once; none if one of them were no regular expression.
static ALL: LazyLock<Option<RegexSet>> = LazyLock::new(|| RegexSet::new(PATTERNS.iter().map(|(_, pattern)| pattern)).ok());

/// What the path of an image looks like it is made from.
pub(crate) fn path(key: &str) -> Option<Personal> {
    let all = ALL.as_ref()?;
    // Whether any does is cheaper to tell than which.
    let first = all.is_match(key).then(|| all.matches(key).into_iter().next()).flatten()?;
    PATTERNS.get(first).map(|(kind, _)| *kind)
}

/// Whether a path looks like it is made from personal data, and should not be shown.
#[must_use]
pub fn shows_person(key: &str) -> bool {
    path(key).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles_and_lies_where_it_is_looked_for() {
        assert!(ALL.is_some());
        assert!(PATTERNS[CARET].1.contains('^') && PATTERNS[COMMA].1.contains("+,"));
    }

    #[test]
    fn identities_are_found() {
        for (key, kind) in [
            ("ct/DOE^JOHN^^^/IM0001", Personal::Name),
            ("covid/Doe, John.png", Personal::Name),
            ("covid/O'Brien,_Mary 2.png", Personal::Name),
            ("xray/patientname=smith-1.png", Personal::Name),
            ("a/dob_19610203_1.png", Personal::BirthDate),
            ("a/x born 03.02.1961.png", Personal::BirthDate),
            ("a/jane.doe@hospital.org.png", Personal::Contact),
            ("a/+49 170 123 4567.jpg", Personal::Contact),
            ("a/(555) 123-4567.jpg", Personal::Contact),
            ("MRN-00471234/1.dcm", Personal::RecordNumber),
            ("a/123-45-6789.dcm", Personal::RecordNumber),
        ] {
            assert_eq!(path(key), Some(kind), "{key}");
        }
        for (name, kind) in
            [("Patient's Name", Personal::Name), ("DOB", Personal::BirthDate), ("e-mail", Personal::Contact), ("MRN", Personal::RecordNumber)]
        {
            assert_eq!(column(name), Some(kind), "{name}");
        }
    }

    #[test]
    fn columns_are_known_in_other_languages() {
        for name in "Nachname|VORNAME|Patientenname|Prénom|nom_patient|Nom de famille|Apellido(s)|Nombre del paciente|cognome|Nome do paciente|sobrenome|patient_surname"
            .split('|')
        {
            assert_eq!(column(name), Some(Personal::Name), "{name}");
        }
        for name in
            "Geburtsdatum|Geb.-Datum|date_naissance|Date de naissance|fecha_nacimiento|FechaDeNacimiento|Data di nascita|data_nascimento|Patient DOB"
                .split('|')
        {
            assert_eq!(column(name), Some(Personal::BirthDate), "{name}");
        }
        for name in "Telefon|Telefon-Nummer|Téléphone|Numéro de téléphone|courriel|Teléfono|correo_electrónico|telefone|patient_email".split('|')
        {
            assert_eq!(column(name), Some(Personal::Contact), "{name}");
        }
        for name in "Versichertennummer|numéro_sécurité_sociale|Número de historia clínica|codice fiscale|Cartão SUS|patient_mrn".split('|') {
            assert_eq!(column(name), Some(Personal::RecordNumber), "{name}");
        }
        let ordinary = "nom|nome|nombre|Adresse|Patientennummer|Geschlecht|Alter|sexe|âge|edad|Befunddatum|date_examen|fecha_estudio|data_esame|celular|telemetry|subject|patient";
        for name in ordinary.split('|') {
            assert_eq!(column(name), None, "{name}");
        }
    }

    #[test]
    fn values_are_judged_with_their_column() {
        for (name, text, kind) in [
            ("comment", "seen with DOE^JOHN", Personal::Name),
            ("referrer", "MUELLER^Anna^^Dr.", Personal::Name),
            ("reader", "jane.doe@hospital.org", Personal::Contact),
            ("contact", "+491701234567", Personal::Contact),
            ("contact", "+49 170 123 4567", Personal::Contact),
            ("StudyDescription", "Head^Routine +49 170 123 4567", Personal::Contact),
            ("key", "dob_19610203", Personal::BirthDate),
            ("notes", "MRN: 00471234", Personal::RecordNumber),
            ("id2", "123-45-6789", Personal::RecordNumber),
        ] {
            assert_eq!(value(name, text), Some(kind), "{name}: {text}");
        }
        for (name, text) in [
            ("findings", "Effusion, Mass"),
            ("site", "Boston, Massachusetts"),
            ("StudyDescription", "Abdomen^Liver"),
            ("Protocol Name", "SPINE^LUMBAR"),
            ("weight", "+0.12345678"),
            ("weight", "-1.2345678e+12"),
            ("volume", "123456789012"),
            ("time", "2020-01-01T10:20:30.123456+01:00"),
            ("study_date", "20190305"),
            ("area", "12 cm^2"),
            ("uid", "1.2.840.113619.2.55.3.604688119.971.1281431222.462"),
            ("original_name", "2020.01.24.919183-p27-132.png"),
            ("karyotype", "46,XY,t(9;22)(q34;q11)"),
        ] {
            assert_eq!(value(name, text), None, "{name}: {text}");
        }
    }

    /// How many values a table has, none of which looks like personal data.
    fn values_without_alarm(file: &std::path::Path) -> usize {
        let text = crate::table::text(file).unwrap();
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_slice());
        let header = reader.headers().unwrap().clone();
        for name in &header {
            assert_eq!(column(name).or_else(|| value("", name)), None, "{}: {name:?}", file.display());
        }
        let mut values = 0;
        for row in reader.records() {
            for (name, text) in header.iter().zip(&row.unwrap()) {
                assert_eq!(value(name, text), None, "{}: {name:?} {text:?}", file.display());
                values += 1;
            }
        }
        values
    }

    #[test]
    fn no_real_file_raises_a_false_alarm() {
        let Some(data) = std::env::var_os("GRAFT_DATA").map(std::path::PathBuf::from).filter(|data| data.is_dir()) else {
            println!("skipped no_real_file_raises_a_false_alarm: there is no GRAFT_DATA");
            return;
        };
        let mut folders = vec![data.clone()];
        let (mut seen, mut values) = (0, 0);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let file = entry.unwrap().path();
                if file.is_dir() {
                    folders.push(file);
                } else {
                    seen += 1;
                    let key = file.strip_prefix(&data).unwrap().to_string_lossy().into_owned();
                    assert_eq!(path(&key), None, "{key}");
                    if crate::table::named_as_table(&key) {
                        values += values_without_alarm(&file);
                    }
                }
            }
        }
        assert!(seen > 2000, "only {seen} files");
        assert!(values > 1_000_000, "only {values} values");
    }

    #[test]
    fn ordinary_names_are_left_alone() {
        for key in [
            "CT_COVID/2020.03.04.20031039-p23-108_1%0.jpg",
            "CT_COVID/Gastrointestinal-involvement-in-COVID-19-pneumonia_p6-18.png",
            "train/patient00001/study1/view1_frontal.jpg",
            "00000001_000.png",
            "images/patient-000-slice-0.png",
            "ISIC_0024306.jpg",
            "1.2.840.113619.2.55.3.604688119.971.1281431222.462/000012.dcm",
            "LIDC-IDRI-0001/01-01-2000-30178/3000566.000000-03192/1-001.dcm",
            "TCGA-02-0003-01Z-00-DX1.6171b175.svs/tile_12,34.png",
            "2019-03-05/scan.nii.gz#40",
            "newborn/20190305.png",
            "Rosemary,thyme/1.png",
        ] {
            assert_eq!(path(key), None, "{key}");
        }
        for name in ["name", "Image Index", "Patient ID", "Patient Age", "Patient Gender", "RID", "subject_id", "study_date", "address"] {
            assert_eq!(column(name), None, "{name}");
        }
    }
}
