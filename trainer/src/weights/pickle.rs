//! The part of Python's pickle language that a saved state dict uses, as data. Nothing is imported, called or built: a
//! global is a name from a short list, and applying one is a rule of this page. Any other opcode or name is refused.

use std::cell::RefCell;
use std::rc::Rc;

/// Limits that no state dict comes near and that keep a crafted file from filling memory.
const MAX_BYTES: usize = 64 << 20;
const MAX_VALUES: usize = 4 << 20;

/// A name that a state dict may mention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
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

pub(super) type Dict = Rc<RefCell<Vec<(Value, Value)>>>;

#[derive(Clone, Debug)]
pub(super) enum Value {
    None,
    Bool,
    Int(i64),
    Float,
    Text(Rc<str>),
    Tuple(Rc<Vec<Value>>),
    List(Rc<RefCell<Vec<Value>>>),
    Dict(Dict),
    Global(Global),
    Storage { key: Rc<str>, element: Element, length: i64 },
    Tensor(Rc<TensorRecord>),
}

/// The value that a pickle describes.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!("its pickle has {} bytes, more than the {MAX_BYTES} of any state dict", bytes.len()));
    }
    let mut machine = Machine { bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo: Vec::new(), values: 0 };
    machine.run()
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: Vec<Value>,
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
                return Err(format!("pickle opcode 0x{code:02x} at byte {start} is not one of a state dict's; refused"));
            }
        }
    }

    /// Opcodes that push a constant, or touch only the memo.
    fn constant(&mut self, code: u8) -> Result<bool, String> {
        let value = match code {
            b'N' => Value::None,
            0x88 | 0x89 => Value::Bool,
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
            0x8c => {
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
            b')' => self.push(Value::Tuple(Rc::default()))?,
            b']' => self.push(Value::List(Rc::default()))?,
            b'}' => self.push(Value::Dict(Rc::default()))?,
            0x85..=0x87 => {
                let items = self.pop_last(usize::from(code - 0x84))?;
                self.push(Value::Tuple(Rc::new(items)))?;
            }
            b't' => {
                let items = self.pop_mark()?;
                self.push(Value::Tuple(Rc::new(items)))?;
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
                let value = apply(&function, &arguments)?;
                self.push(value)?;
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
                self.push(storage(&id)?)?;
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
            Some(Value::List(list)) => list.borrow_mut().extend(items),
            _ => return Err("its pickle appends to something that is not a list".into()),
        }
        Ok(())
    }

    fn extend_dict(&mut self, items: Vec<Value>) -> Result<(), String> {
        let Some(Value::Dict(dict)) = self.stack.last() else {
            return Err("its pickle sets an item of something that is not a dict".into());
        };
        let mut items = items.into_iter();
        while let Some(key) = items.next() {
            let value = items.next().ok_or("its pickle has a key without a value")?;
            dict.borrow_mut().push((key, value));
        }
        Ok(())
    }
}

/// What a persistent id names: `("storage", torch.FloatStorage, key, device, length)`.
fn storage(id: &Value) -> Result<Value, String> {
    if let Value::Tuple(parts) = id
        && let [Value::Text(kind), Value::Global(Global::Storage(element)), Value::Text(key), Value::Text(_), Value::Int(length)] = parts.as_slice()
        && kind.as_ref() == "storage"
    {
        return Ok(Value::Storage { key: Rc::clone(key), element: *element, length: *length });
    }
    Err("it refers to an object outside of it that is not a storage; refused".into())
}

fn apply(function: &Value, arguments: &Value) -> Result<Value, String> {
    let (Value::Global(function), Value::Tuple(arguments)) = (function, arguments) else {
        return Err("it calls something that is not a name; refused".into());
    };
    match (function, arguments.as_slice()) {
        (Global::OrderedDict, []) => Ok(Value::Dict(Rc::default())),
        (Global::RebuildTensor, [storage, Value::Int(offset), Value::Tuple(shape), Value::Tuple(strides), ..]) => {
            let Value::Storage { key, element, length } = storage else {
                return Err("it rebuilds a tensor from something that is not a storage; refused".into());
            };
            let (shape, strides) = (integers(shape)?, integers(strides)?);
            let record = TensorRecord { key: Rc::clone(key), element: *element, length: *length, offset: *offset, shape, strides };
            Ok(Value::Tensor(Rc::new(record)))
        }
        (Global::RebuildParameter, [Value::Tensor(tensor), ..]) => Ok(Value::Tensor(Rc::clone(tensor))),
        _ => Err(format!("it applies {function:?} to arguments that do not fit; refused")),
    }
}

fn integers(values: &[Value]) -> Result<Vec<i64>, String> {
    let integer = |v: &Value| match v {
        Value::Int(n) => Ok(*n),
        _ => Err("a shape in its pickle has something in it that is not a number".to_owned()),
    };
    values.iter().map(integer).collect()
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
    fn other_opcodes_are_refused_by_number() {
        for code in [b'i', b'o', b'S', b'I', 0x81, 0x92, 0x93, b'P', 0x82] {
            assert!(refusal(&[0x80, 2, code, b'x', b'\n', b'.']).contains(&format!("0x{code:02x} at byte 2")));
        }
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
        let number = |bytes: &[u8]| match parse(bytes) {
            Ok(Value::Int(n)) => n,
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
        assert!(matches!(parse(b"]q\x00h\x00a."), Ok(Value::List(_))));
    }

    #[test]
    fn a_pickle_that_only_grows_is_stopped() {
        let mut bytes = vec![b'N'; MAX_VALUES + 1];
        bytes.push(b'.');
        assert!(refusal(&bytes).contains("values"));
    }
}
