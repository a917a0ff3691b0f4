//! What the demo shows: steps, lines under them, and a sign of life while it waits.

use indicatif::{ProgressBar, ProgressStyle};
use std::cell::RefCell;
use std::io::{self, IsTerminal};
use std::time::Duration;

/// How often the sign of life moves.
const TICK: Duration = Duration::from_millis(120);

/// The terminal, or whatever reads the output instead: then there are lines and nothing else.
pub(super) struct Screen {
    terminal: bool,
    steps: usize,
    step: RefCell<(usize, String)>,
    waiting: RefCell<Option<ProgressBar>>,
}

impl Screen {
    /// A screen for a story of `steps` steps.
    pub(super) fn new(steps: usize) -> Self {
        Self {
            // The progress bars of `bugler` are on standard error.
            terminal: io::stdout().is_terminal() && io::stderr().is_terminal(),
            steps,
            step: RefCell::default(),
            waiting: RefCell::default(),
        }
    }

    /// Whether somebody looks at a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Begins the next step.
    pub(super) fn step(&self, title: &str) {
        self.rest();
        let mut step = self.step.borrow_mut();
        step.0 += 1;
        title.clone_into(&mut step.1);
        let text = format!("[{}/{}] {title}", step.0, self.steps);
        println!("\n{}", self.bold(&text));
    }

    /// The step that was begun last, for an error.
    pub(super) fn current(&self) -> String {
        let step = self.step.borrow();
        format!("step {} of {} ({})", step.0, self.steps, step.1)
    }

    /// Prints a line of the step.
    pub(super) fn line(&self, text: &str) {
        match &*self.waiting.borrow() {
            Some(bar) => bar.suspend(|| println!("      {text}")),
            None => println!("      {text}"),
        }
    }

    /// Prints a command as an operator would type it.
    pub(super) fn command(&self, text: &str) {
        self.rest();
        println!("    {}", self.bold(&format!("$ {text}")));
    }

    /// Shows that something is waited for, until the next call of another kind than
    /// [`line`](Self::line).
    pub(super) fn wait(&self, what: &str) {
        self.rest();
        if !self.terminal {
            println!("      ... {what}");
            return;
        }
        let style = ProgressStyle::with_template("    {spinner} {msg} ({elapsed})")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::new_spinner()
            .with_style(style)
            .with_message(what.to_owned());
        bar.enable_steady_tick(TICK);
        *self.waiting.borrow_mut() = Some(bar);
    }

    /// What was waited for has come.
    pub(super) fn rest(&self) {
        if let Some(bar) = self.waiting.borrow_mut().take() {
            bar.finish_and_clear();
        }
    }

    fn bold(&self, text: &str) -> String {
        if self.terminal {
            format!("\x1b[1m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
