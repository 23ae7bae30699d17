//! Server-sent events, as they come.

use reqwest::Response;

use super::ClientError;

/// The events of one answer.
pub(super) struct Events {
    url: String,
    response: Response,
    lines: Lines,
    name: String,
}

impl Events {
    pub(super) fn of(url: &str, response: Response) -> Self {
        Self { url: url.to_owned(), response, lines: Lines::default(), name: String::new() }
    }

    /// The next event's name and data; none at the stream's end.
    pub(super) async fn next(&mut self) -> Result<Option<(String, String)>, ClientError> {
        loop {
            while let Some(line) = self.lines.take() {
                if let Some(name) = line.strip_prefix("event:") {
                    name.trim().clone_into(&mut self.name);
                } else if let Some(data) = line.strip_prefix("data:") {
                    return Ok(Some((self.name.clone(), data.to_owned())));
                }
            }
            match self.response.chunk().await.map_err(|error| self.broken(error))? {
                Some(bytes) => self.lines.add(&bytes),
                None => return Ok(None),
            }
        }
    }

    pub(super) fn broken(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Broken { url: self.url.clone(), source: source.into() }
    }
}

/// Lines out of pieces.
#[derive(Debug, Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn add(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next whole line, without its end.
    fn take(&mut self) -> Option<String> {
        let end = self.0.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.0.drain(..=end).collect();
        Some(String::from_utf8_lossy(&line[..end]).trim_end_matches('\r').to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_they_come() {
        let mut lines = Lines::default();
        for byte in "event: log\r\ndata: ä\n\npart".bytes() {
            lines.add(&[byte]);
        }
        let taken: Vec<String> = std::iter::from_fn(|| lines.take()).collect();
        assert_eq!(taken, ["event: log", "data: ä", ""]);
    }
}
