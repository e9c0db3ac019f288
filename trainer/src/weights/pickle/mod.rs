//! The part of Python's pickle language that a saved state dict uses, as data. Nothing is imported, called or built: a
//! global is a name from a short list, and applying one is a rule of this page. Any other opcode or name is refused.

mod opcodes;

use std::collections::BTreeMap;
use std::rc::Rc;

/// Limits that no state dict comes near and that keep a crafted file from filling memory.
const MAX_BYTES: usize = 64 << 20;
const MAX_VALUES: usize = 4 << 20;

/// A name that a state dict may mention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    /// As of PyTorch 0.3 and before: without the two arguments that no state dict needs.
    RebuildTensorV1,
    RebuildTensor,
    RebuildParameter,
    Storage(Element),
}

/// The kinds of numbers in a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F16,
    BF16,
    F32,
    F64,
    I64,
    I32,
    U8,
    Bool,
}

/// A tensor as the pickle describes it, with nothing checked yet.
#[derive(Clone, Debug)]
pub(super) struct TensorRecord {
    pub(super) key: Rc<str>,
    pub(super) element: Element,
    /// Numbers in the storage.
    pub(super) length: i64,
    pub(super) offset: i64,
    pub(super) shape: Vec<i64>,
    pub(super) strides: Vec<i64>,
}

/// A tuple, list or dict by its place in [`Parsed::items`].
pub(super) type Id = usize;

#[derive(Clone, Debug)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float,
    Text(Rc<str>),
    Tuple(Id),
    List(Id),
    Dict(Id),
    Global(Global),
    Storage { key: Rc<str>, element: Element, length: i64 },
    Tensor(Rc<TensorRecord>),
}

/// What a pickle describes. Containers lie side by side and name each other by their places: however deep a crafted file
/// nests them, nothing here recurses, not even the end of their lives.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) value: Value,
    /// What is in each container; a dict's are its keys and values by turns.
    items: Vec<Vec<Value>>,
    /// Every storage that is mentioned, with its kind and how many numbers it holds.
    pub(super) storages: BTreeMap<Rc<str>, (Element, i64)>,
    /// Bytes that the pickle takes.
    pub(super) end: usize,
}

impl Parsed {
    /// Keys and values of a dict.
    pub(super) fn entries(&self, dict: Id) -> impl Iterator<Item = (&Value, &Value)> {
        self.items[dict].chunks_exact(2).map(|pair| (&pair[0], &pair[1]))
    }

    /// What is in a list.
    pub(super) fn list(&self, list: Id) -> &[Value] {
        &self.items[list]
    }
}

/// The value that a pickle at the beginning of `bytes` describes.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, String> {
    let bytes = &bytes[..bytes.len().min(MAX_BYTES)];
    let mut machine =
        Machine { bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo: Vec::new(), items: Vec::new(), storages: BTreeMap::new(), values: 0 };
    let value = machine.run()?;
    Ok(Parsed { value, items: machine.items, storages: machine.storages, end: machine.at })
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: Vec<Value>,
    items: Vec<Vec<Value>>,
    storages: BTreeMap<Rc<str>, (Element, i64)>,
    /// Values pushed so far.
    values: usize,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Value, String> {
        loop {
            let start = self.at;
            let code = self.take::<1>()?[0];
            if code == b'.' {
                return self.pop();
            }
            let known = self.constant(code)? || self.container(code)? || self.applied(code)?;
            if !known {
                let name = opcodes::name(code);
                return Err(format!("pickle opcode {name} (0x{code:02x}) at byte {start} is not one of a state dict's; refused"));
            }
        }
    }

    /// Opcodes that push a constant, or touch only the memo.
    fn constant(&mut self, code: u8) -> Result<bool, String> {
        let value = match code {
            b'N' => Value::None,
            0x88 | 0x89 => Value::Bool(code == 0x88),
            b'K' => Value::Int(i64::from(self.take::<1>()?[0])),
            b'M' => Value::Int(i64::from(u16::from_le_bytes(self.take()?))),
            b'J' => Value::Int(i64::from(i32::from_le_bytes(self.take()?))),
            0x8a => self.long()?,
            b'G' => {
                self.take::<8>()?;
                Value::Float
            }
            b'X' => {
                let length = u32::from_le_bytes(self.take()?) as usize;
                self.text(length)?
            }
            // As Python 2 wrote names.
            b'T' => {
                let length = u32::from_le_bytes(self.take()?) as usize;
                self.text(length)?
            }
            0x8c | b'U' => {
                let length = usize::from(self.take::<1>()?[0]);
                self.text(length)?
            }
            b'c' => Value::Global(self.global()?),
            b'h' => self.recall(usize::from(self.bytes.get(self.at).copied().unwrap_or(0)), 1)?,
            b'j' => {
                let index = self.bytes.get(self.at..self.at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                self.recall(index as usize, 4)?
            }
            0x80 => {
                let version = self.take::<1>()?[0];
                return if version <= 4 { Ok(true) } else { Err(format!("pickle protocol {version} is not read")) };
            }
            b'q' => {
                let index = usize::from(self.take::<1>()?[0]);
                return self.remember(index);
            }
            b'r' => {
                let index = u32::from_le_bytes(self.take()?) as usize;
                return self.remember(index);
            }
            0x94 => return self.remember(self.memo.len()),
            _ => return Ok(false),
        };
        self.push(value)?;
        Ok(true)
    }

    /// Opcodes that make or fill tuples, lists and dicts.
    fn container(&mut self, code: u8) -> Result<bool, String> {
        match code {
            b'(' => {
                self.count()?;
                self.marks.push(self.stack.len());
            }
            b')' => self.push_container(Value::Tuple, Vec::new())?,
            b']' => self.push_container(Value::List, Vec::new())?,
            b'}' => self.push_container(Value::Dict, Vec::new())?,
            0x85..=0x87 => {
                let items = self.pop_last(usize::from(code - 0x84))?;
                self.push_container(Value::Tuple, items)?;
            }
            b't' => {
                let items = self.pop_mark()?;
                self.push_container(Value::Tuple, items)?;
            }
            b'a' => {
                let items = self.pop_last(1)?;
                self.extend_list(items)?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.extend_list(items)?;
            }
            b's' => {
                let items = self.pop_last(2)?;
                self.extend_dict(items)?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.extend_dict(items)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Opcodes that apply something: the rules stand in `apply`, nothing is ever called.
    fn applied(&mut self, code: u8) -> Result<bool, String> {
        match code {
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.apply(&function, &arguments)?;
            }
            // The state of an OrderedDict: attributes such as `_metadata`, which hold no tensors.
            b'b' => {
                self.pop()?;
                if !matches!(self.stack.last(), Some(Value::Dict(_))) {
                    return Err("it sets attributes of something that is not a dict; refused".into());
                }
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(&id)?;
                self.push(storage)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let end = self.at.checked_add(N).filter(|&e| e <= self.bytes.len());
        let taken = end.and_then(|e| self.bytes.get(self.at..e)).and_then(|b| <[u8; N]>::try_from(b).ok());
        self.at += N;
        taken.ok_or_else(|| "its pickle ends too early".to_owned())
    }

    fn text(&mut self, length: usize) -> Result<Value, String> {
        let end = self.at.checked_add(length).ok_or("its pickle ends too early")?;
        let bytes = self.bytes.get(self.at..end).ok_or("its pickle ends too early")?;
        self.at = end;
        let text = std::str::from_utf8(bytes).map_err(|_| "a string in its pickle is not UTF-8")?;
        Ok(Value::Text(text.into()))
    }

    /// A whole number of up to eight bytes, little-endian, two's complement.
    fn long(&mut self) -> Result<Value, String> {
        let length = usize::from(self.take::<1>()?[0]);
        if length > 8 {
            return Err(format!("a number of {length} bytes in its pickle is too large"));
        }
        let bytes = self.bytes.get(self.at..self.at + length).ok_or("its pickle ends too early")?;
        self.at += length;
        let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
        let mut whole = [fill; 8];
        whole[..length].copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(whole)))
    }

    fn line(&mut self) -> Result<String, String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().take(256).position(|&b| b == b'\n').ok_or("a name in its pickle has no end")?;
        self.at += length + 1;
        Ok(String::from_utf8_lossy(&rest[..length]).into_owned())
    }

    fn global(&mut self) -> Result<Global, String> {
        let (module, name) = (self.line()?, self.line()?);
        let element = |e| Ok(Global::Storage(e));
        match (module.as_str(), name.as_str()) {
            ("collections", "OrderedDict") => Ok(Global::OrderedDict),
            ("torch._utils", "_rebuild_tensor") => Ok(Global::RebuildTensorV1),
            ("torch._utils", "_rebuild_tensor_v2") => Ok(Global::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Ok(Global::RebuildParameter),
            ("torch", "HalfStorage") => element(Element::F16),
            ("torch", "BFloat16Storage") => element(Element::BF16),
            ("torch", "FloatStorage") => element(Element::F32),
            ("torch", "DoubleStorage") => element(Element::F64),
            ("torch", "LongStorage") => element(Element::I64),
            ("torch", "IntStorage") => element(Element::I32),
            ("torch", "ByteStorage") => element(Element::U8),
            ("torch", "BoolStorage") => element(Element::Bool),
            _ => Err(format!("it names {module}.{name}, which is not part of a state dict; refused. Save the model's state_dict() alone")),
        }
    }

    fn count(&mut self) -> Result<(), String> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(format!("its pickle has more than {MAX_VALUES} values; refused"));
        }
        Ok(())
    }

    fn push(&mut self, value: Value) -> Result<(), String> {
        self.count()?;
        self.stack.push(value);
        Ok(())
    }

    fn push_container(&mut self, kind: fn(Id) -> Value, items: Vec<Value>) -> Result<(), String> {
        self.items.push(items);
        self.push(kind(self.items.len() - 1))
    }

    /// The lowest entry that belongs to the innermost open mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Value, String> {
        let mut one = self.pop_last(1)?;
        one.pop().ok_or_else(|| "its pickle takes from an empty stack".to_owned())
    }

    fn pop_last(&mut self, count: usize) -> Result<Vec<Value>, String> {
        let start = self.stack.len().checked_sub(count).filter(|&s| s >= self.floor());
        Ok(self.stack.split_off(start.ok_or("its pickle takes from an empty stack")?))
    }

    fn pop_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.marks.pop().ok_or("its pickle closes what it never opened")?;
        Ok(self.stack.split_off(mark))
    }

    /// The memo is written in order, so it is a list; a gap would be a way to make it large.
    fn remember(&mut self, index: usize) -> Result<bool, String> {
        let value = self.stack.last().cloned().ok_or("its pickle remembers nothing")?;
        match index.cmp(&self.memo.len()) {
            std::cmp::Ordering::Less => self.memo[index] = value,
            std::cmp::Ordering::Equal => {
                self.count()?;
                self.memo.push(value);
            }
            std::cmp::Ordering::Greater => return Err(format!("its pickle skips to memo entry {index}")),
        }
        Ok(true)
    }

    fn recall(&mut self, index: usize, width: usize) -> Result<Value, String> {
        self.at += width;
        self.memo.get(index).cloned().ok_or_else(|| format!("its pickle recalls memo entry {index}, which is not there"))
    }

    fn extend_list(&mut self, items: Vec<Value>) -> Result<(), String> {
        match self.stack.last() {
            Some(Value::List(list)) => self.items[*list].extend(items),
            _ => return Err("its pickle appends to something that is not a list".into()),
        }
        Ok(())
    }

    fn extend_dict(&mut self, items: Vec<Value>) -> Result<(), String> {
        let Some(Value::Dict(dict)) = self.stack.last() else {
            return Err("its pickle sets an item of something that is not a dict".into());
        };
        if !items.len().is_multiple_of(2) {
            return Err("its pickle has a key without a value".into());
        }
        self.items[*dict].extend(items);
        Ok(())
    }

    fn tuple(&self, value: &Value) -> Option<&[Value]> {
        match value {
            Value::Tuple(id) => Some(&self.items[*id]),
            _ => None,
        }
    }

    /// What a persistent id names: `("storage", torch.FloatStorage, key, device, length)`, and a sixth, a part of another
    /// storage, which is none, in the format before PyTorch 1.6.
    fn storage(&mut self, id: &Value) -> Result<Value, String> {
        use Value::{Int, None, Text};
        let parts = self.tuple(id).unwrap_or_default();
        if let [Text(kind), Value::Global(Global::Storage(element)), Text(key), Text(_), Int(length)]
        | [Text(kind), Value::Global(Global::Storage(element)), Text(key), Text(_), Int(length), None] = parts
            && kind.as_ref() == "storage"
        {
            let (key, element, length) = (Rc::clone(key), *element, *length);
            if *self.storages.entry(Rc::clone(&key)).or_insert((element, length)) != (element, length) {
                return Err(format!("it mentions storage {key} twice and differently; refused"));
            }
            return Ok(Value::Storage { key, element, length });
        }
        Err("it refers to an object outside of it that is not a storage; refused".into())
    }

    fn apply(&mut self, function: &Value, arguments: &Value) -> Result<(), String> {
        let (Value::Global(function), Some(arguments)) = (function, self.tuple(arguments)) else {
            return Err("it calls something that is not a name; refused".into());
        };
        match (function, arguments) {
            (Global::OrderedDict, []) => self.push_container(Value::Dict, Vec::new()),
            // Python 2 gives the items along, each as a pair.
            (Global::OrderedDict, [Value::List(pairs)]) => {
                let items = self.pairs(*pairs).ok_or("it makes a dict of something that is not pairs; refused")?;
                self.push_container(Value::Dict, items)
            }
            (
                Global::RebuildTensor | Global::RebuildTensorV1,
                [Value::Storage { key, element, length }, Value::Int(offset), shape @ Value::Tuple(_), strides @ Value::Tuple(_), ..],
            ) => {
                let (shape, strides) = (self.integers(shape)?, self.integers(strides)?);
                let record = TensorRecord { key: Rc::clone(key), element: *element, length: *length, offset: *offset, shape, strides };
                self.push(Value::Tensor(Rc::new(record)))
            }
            (Global::RebuildParameter, [Value::Tensor(tensor), ..]) => {
                let tensor = Rc::clone(tensor);
                self.push(Value::Tensor(tensor))
            }
            _ => Err(format!("it applies {function:?} to arguments that do not fit; refused")),
        }
    }

    /// The two parts of each pair in a list, one after the other.
    fn pairs(&self, list: Id) -> Option<Vec<Value>> {
        let mut items = Vec::new();
        for pair in &self.items[list] {
            match pair {
                Value::List(id) | Value::Tuple(id) if self.items[*id].len() == 2 => items.extend(self.items[*id].iter().cloned()),
                _ => return None,
            }
        }
        Some(items)
    }

    fn integers(&self, tuple: &Value) -> Result<Vec<i64>, String> {
        let integer = |v: &Value| match v {
            Value::Int(n) => Ok(*n),
            _ => Err("a shape in its pickle has something in it that is not a number".to_owned()),
        };
        self.tuple(tuple).unwrap_or_default().iter().map(integer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(bytes: &[u8]) -> String {
        parse(bytes).unwrap_err()
    }

    #[test]
    fn names_that_run_code_are_refused() {
        assert!(refusal(b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00lstR.").contains("os.system"));
        assert!(refusal(b"cbuiltins\neval\n.").contains("builtins.eval"));
        assert!(refusal(b"ctorch.storage\n_load_from_bytes\n.").contains("_load_from_bytes"));
    }

    #[test]
    fn other_opcodes_are_refused_by_name() {
        let named = [(b'i', "INST"), (b'o', "OBJ"), (b'S', "STRING"), (b'I', "INT"), (0x81, "NEWOBJ"), (0x92, "NEWOBJ_EX")];
        for (code, name) in named.into_iter().chain([(0x93, "STACK_GLOBAL"), (b'P', "PERSID"), (0x82, "EXT1"), (0xff, "unknown to Python")]) {
            assert!(refusal(&[0x80, 2, code, b'x', b'\n', b'.']).contains(&format!("{name} (0x{code:02x}) at byte 2")));
        }
    }

    #[test]
    fn deep_nesting_ends_without_recursion() {
        let tuples = [&b"N"[..], &vec![0x85; 1 << 20], b"."].concat();
        assert!(matches!(parse(&tuples).unwrap().value, Value::Tuple(_)));
        let lists = [vec![b']'; 1 << 20], vec![b'a'; (1 << 20) - 1], b".".to_vec()].concat();
        assert!(matches!(parse(&lists).unwrap().value, Value::List(_)));
    }

    #[test]
    fn a_dict_of_python_2_is_read() {
        let parsed = parse(b"\x80\x02ccollections\nOrderedDict\n(](](U\x01aK\x07ee\x85R.");
        let error = parsed.unwrap_err();
        assert!(error.contains("empty stack") || error.contains("not a"), "{error}");
        let parsed = parse(b"\x80\x02ccollections\nOrderedDict\n]](U\x01aK\x07ea\x85R.").unwrap();
        let Value::Dict(dict) = parsed.value else { panic!("{parsed:?}") };
        let entries: Vec<_> = parsed.entries(dict).collect();
        assert!(matches!(entries.as_slice(), [(Value::Text(key), Value::Int(7))] if key.as_ref() == "a"), "{entries:?}");
    }

    #[test]
    fn broken_programs_are_errors() {
        for bytes in [
            &b""[..],
            b"N",
            b".",
            b"K",
            b"X\xff\xff\xff\xffab.",
            b"h\x05.",
            b"j\x05",
            b"q\x00.",
            b"Nr\xff\xff\xff\x7f.",
            b"t.",
            b"(R.",
            b"NNR.",
            b"Nb.",
            b"}K\x01s.",
            b"}(K\x01u.",
            b"N(0.",
            b"(N\x85.\x00",
            b"N(\x85.",
            b"\x8a\x09123456789.",
            b"\x8a\x08123",
            b"\x80\x05.",
            b"NQ.",
            b"]Na",
            b"NNa.",
            b"cabc",
        ] {
            let ended = parse(bytes);
            assert!(ended.is_err() || bytes == b"(N\x85.\x00", "{bytes:?} gave {ended:?}");
        }
    }

    #[test]
    fn numbers_keep_their_sign() {
        let number = |bytes: &[u8]| match parse(bytes).unwrap().value {
            Value::Int(n) => n,
            other => panic!("{other:?}"),
        };
        assert_eq!(number(b"\x8a\x01\xff."), -1);
        assert_eq!(number(b"\x8a\x00."), 0);
        assert_eq!(number(b"\x8a\x02\x00\x01."), 256);
        assert_eq!(number(b"J\xfe\xff\xff\xff."), -2);
        assert_eq!(number(b"M\x01\x02."), 513);
    }

    #[test]
    fn a_list_inside_itself_ends() {
        // ]q\0h\0a. makes a list that holds itself: no more than a value, and it is never walked.
        assert!(matches!(parse(b"]q\x00h\x00a.").unwrap().value, Value::List(_)));
    }

    #[test]
    fn a_pickle_that_only_grows_is_stopped() {
        let mut bytes = vec![b'N'; MAX_VALUES + 1];
        bytes.push(b'.');
        assert!(refusal(&bytes).contains("values"));
    }
}
