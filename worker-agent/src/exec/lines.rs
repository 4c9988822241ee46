//! Cuts what a pipe delivers into lines, whatever the chunks are.

/// One line without its end, before masking and decoding.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RawLine {
    /// Its bytes, as many as are kept.
    pub bytes: Vec<u8>,
    /// Whether the rest was skipped.
    pub cut: bool,
}

/// Keeps an unfinished line between chunks, and never more than one line's limit.
#[derive(Debug)]
pub struct LineAssembler {
    max_bytes: usize,
    line: RawLine,
}

impl LineAssembler {
    /// Lines are cut after `max_bytes`.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, line: RawLine::default() }
    }

    /// Takes a chunk and returns the lines that it finishes.
    pub fn push(&mut self, chunk: &[u8]) -> Vec<RawLine> {
        let mut finished = Vec::new();
        let mut rest = chunk;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            self.append(&rest[..end]);
            finished.push(self.take());
            rest = &rest[end + 1..];
        }
        self.append(rest);
        finished
    }

    /// What is left at the end of the pipe: a last line without a line end.
    pub fn finish(&mut self) -> Option<RawLine> {
        (!self.line.bytes.is_empty()).then(|| self.take())
    }

    fn append(&mut self, bytes: &[u8]) {
        let room = self.max_bytes.saturating_sub(self.line.bytes.len());
        let kept = &bytes[..bytes.len().min(room)];
        self.line.bytes.extend_from_slice(kept);
        self.line.cut |= kept.len() < bytes.len();
    }

    fn take(&mut self) -> RawLine {
        let mut line = std::mem::take(&mut self.line);
        if !line.cut && line.bytes.last() == Some(&b'\r') {
            line.bytes.pop();
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(max_bytes: usize, chunks: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let mut assembler = LineAssembler::new(max_bytes);
        let mut lines: Vec<RawLine> = chunks.iter().flat_map(|chunk| assembler.push(chunk)).collect();
        lines.extend(assembler.finish());
        lines.into_iter().map(|line| (line.bytes, line.cut)).collect()
    }

    #[test]
    fn a_line_at_the_limit_is_whole_and_one_byte_more_is_cut() {
        assert_eq!(all(4, &[b"1234\n"]), [(b"1234".to_vec(), false)]);
        assert_eq!(all(4, &[b"12345\nx"]), [(b"1234".to_vec(), true), (b"x".to_vec(), false)]);
    }

    #[test]
    fn a_last_line_without_an_end_is_kept_and_empty_lines_too() {
        assert_eq!(all(9, &[b"a\n\nb"]), [(b"a".to_vec(), false), (vec![], false), (b"b".to_vec(), false)]);
    }

    #[test]
    fn a_carriage_return_belongs_to_the_line_end_only() {
        assert_eq!(all(9, &[b"a\rb\r\n"]), [(b"a\rb".to_vec(), false)]);
    }

    proptest! {
        #[test]
        fn the_cut_into_chunks_does_not_matter(text in "[ab\n]{0,40}", at in 0_usize..40) {
            let bytes = text.as_bytes();
            let at = at.min(bytes.len());
            prop_assert_eq!(all(3, &[bytes]), all(3, &[&bytes[..at], &bytes[at..]]));
        }
    }
}
