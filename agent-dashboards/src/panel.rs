//! What a dashboard is made of, before it is JSON.

/// How a panel shows what it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// Lines over time.
    Graph,
    /// Areas over time, one on the other.
    Stack,
    /// Lines over time, and the band in which they were expected: what its second target says at most and its third at least.
    Band,
    /// One number.
    Stat,
    /// Rows by labels, the latest values of all targets joined.
    Table,
    /// From a region in each row to one in each column.
    Matrix,
    /// Where the values of a histogram lie, over time.
    Heatmap,
    /// A title over what follows.
    Row,
    /// Words.
    Text,
}

/// A query and what it is called.
#[derive(Clone, Debug)]
pub struct Target {
    /// PromQL.
    pub expr: String,
    /// Legend, or the title of its column.
    pub legend: String,
}

/// A way from a panel to another dashboard. What the other one is narrowed to are these labels, each by the variable of the same
/// name, and else what is chosen here.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Name of the dashboard.
    pub board: &'static str,
    /// Column of a table that is clicked.
    pub column: Option<&'static str>,
    /// Labels of what is clicked.
    pub labels: &'static [&'static str],
}

/// A panel.
#[derive(Clone, Debug)]
pub struct Panel {
    /// How it shows.
    pub show: Show,
    /// Its title.
    pub title: String,
    /// What it is, for who asks.
    pub description: String,
    /// Grafana's name of the unit.
    pub unit: &'static str,
    /// Units of the columns of a table, by legend.
    pub units: Vec<(&'static str, &'static str)>,
    /// Columns of 24.
    pub width: u8,
    /// Rows of about 30 pixels.
    pub height: u8,
    /// What it asks.
    pub targets: Vec<Target>,
    /// From these values on it is yellow, and red.
    pub limits: Option<(f64, f64)>,
    /// Where it leads on to.
    pub ways: Vec<Way>,
    /// A column, and the parameter that it is where an agent is asked for stacks.
    pub stacks: Option<(&'static str, &'static str)>,
    /// What a row hides until it is opened.
    pub inside: Vec<Panel>,
    /// The variable for each of whose values a row is there once.
    pub repeat: Option<&'static str>,
}

impl Panel {
    /// One of the usual size, that asks nothing yet.
    pub fn new(show: Show, title: &str) -> Self {
        let (width, height) = match show {
            Show::Stat => (3, 4),
            Show::Graph | Show::Stack | Show::Band | Show::Matrix => (8, 8),
            Show::Table | Show::Heatmap => (12, 9),
            Show::Row => (24, 1),
            Show::Text => (24, 5),
        };
        Self {
            show,
            title: title.to_owned(),
            description: String::new(),
            unit: "short",
            units: Vec::new(),
            width,
            height,
            targets: Vec::new(),
            limits: None,
            ways: Vec::new(),
            stacks: None,
            inside: Vec::new(),
            repeat: None,
        }
    }

    /// A row that is closed at first, once for each value of a variable if one is named.
    pub fn hiding(mut self, repeat: Option<&'static str>, inside: Vec<Self>) -> Self {
        (self.repeat, self.inside) = (repeat, inside);
        self
    }

    /// Its size.
    pub const fn size(mut self, width: u8, height: u8) -> Self {
        (self.width, self.height) = (width, height);
        self
    }

    /// Another unit than that of its first metric.
    pub const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    /// Other words than those of its first metric.
    pub fn about(mut self, words: &str) -> Self {
        words.clone_into(&mut self.description);
        self
    }

    /// Yellow and red from these on; red below yellow where less is worse.
    pub const fn limits(mut self, yellow: f64, red: f64) -> Self {
        self.limits = Some((yellow, red));
        self
    }

    /// Units of columns.
    pub fn units(mut self, units: &[(&'static str, &'static str)]) -> Self {
        units.clone_into(&mut self.units);
        self
    }

    /// A click on this column of a table leads to a dashboard, narrowed to these labels of the row.
    pub fn link(
        mut self,
        column: &'static str,
        board: &'static str,
        labels: &'static [&'static str],
    ) -> Self {
        self.ways.push(Way {
            board,
            column: Some(column),
            labels,
        });
        self
    }

    /// A click on this column of a table, which has a column `instance` too, asks the agent of variable `agent` for stacks: its label's
    /// value is that parameter of `/api/v1/profile`.
    pub const fn stacks(mut self, column: &'static str, parameter: &'static str) -> Self {
        self.stacks = Some((column, parameter));
        self
    }

    /// A click on a line leads to a dashboard, narrowed to these labels of its series; without labels a sign beside the title does.
    pub fn leads(mut self, board: &'static str, labels: &'static [&'static str]) -> Self {
        self.ways.push(Way {
            board,
            column: None,
            labels,
        });
        self
    }
}

/// A variable of a dashboard.
#[derive(Clone, Debug)]
pub struct Variable {
    /// Its name, `$name` in queries.
    pub name: &'static str,
    /// As people read it.
    pub label: &'static str,
    /// What it may be.
    pub values: Values,
}

/// Where a variable has its values from.
#[derive(Clone, Debug)]
pub enum Values {
    /// `label_values(…)`.
    Asked(String),
    /// Somebody writes one; this at first.
    Written(&'static str),
}

/// A dashboard.
#[derive(Debug)]
pub struct Board {
    /// Its name and uid.
    pub name: &'static str,
    /// Its title.
    pub title: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// Its variables, besides the data source.
    pub variables: Vec<Variable>,
    /// Its panels in their order.
    pub panels: Vec<Panel>,
}
