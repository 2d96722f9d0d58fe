use std::collections::VecDeque;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use kube::client::Body;

use super::{Ask, Failure, unreachable};

/// The longest line of a watch: an object as large as the server's store allows, twice over.
const LONGEST: usize = 4 * 1024 * 1024;

/// The lines of a watch, as they come.
pub(crate) struct Lines {
    body: Body,
    ask: Ask,
    partial: Vec<u8>,
    whole: VecDeque<Vec<u8>>,
}

impl Lines {
    pub(super) fn new(body: Body, ask: Ask) -> Self {
        Self { body, ask, partial: Vec::new(), whole: VecDeque::new() }
    }

    /// The next line, or `None` at the end. Keeps what has come when it is dropped half way.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            if let Some(line) = self.whole.pop_front() {
                return Ok(Some(line));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(|e| unreachable(self.ask, &e.to_string()))?;
            if let Ok(data) = frame.into_data() {
                self.take(&data)?;
            }
        }
    }

    fn take(&mut self, data: &Bytes) -> Result<(), Failure> {
        let mut lines = data.split(|byte| *byte == b'\n');
        let last = lines.next_back().unwrap_or_default();
        for end in lines {
            self.partial.extend_from_slice(end);
            self.whole.push_back(std::mem::take(&mut self.partial));
        }
        self.partial.extend_from_slice(last);
        if self.partial.len() > LONGEST {
            return Err(unreachable(self.ask, "a line of the watch is too long"));
        }
        Ok(())
    }
}
