//! What the agent itself has to complain of, as entries.

use std::fmt::Write as _;
use std::sync::Arc;

use sandbar_types::LogLevel;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::Log;

/// Hears the agent's warnings and errors.
pub struct Warnings(Arc<Log>);

impl Warnings {
    /// Puts them into this log.
    pub fn into_log(log: Arc<Log>) -> Self {
        Self(log)
    }
}

impl<S: Subscriber> Layer<S> for Warnings {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => LogLevel::Error,
            Level::WARN => LogLevel::Warn,
            Level::INFO | Level::DEBUG | Level::TRACE => return,
        };
        let mut text = Text::default();
        event.record(&mut text);
        self.0.complain(level, &format!("guest agent: {}{}", text.message, text.fields));
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn warnings_are_entries_and_news_are_not() {
        let log = Arc::new(Log::default());
        let subscriber = tracing_subscriber::registry().with(Warnings::into_log(Arc::clone(&log)));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("all is well");
            tracing::warn!(path = "/etc/x", "cannot write");
        });
        let (chunk, last) = log.lock().after(0).unwrap();
        let text = std::str::from_utf8(&chunk).unwrap();
        assert_eq!(last, 1);
        assert!(text.contains(r#""message":"guest agent: cannot write path=\"/etc/x\""#), "{text}");
    }
}
