//! Panels and where they stand. A panel has a title, what it tells, a unit and its queries.

use serde_json::{Value, json};

/// How a panel shows its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Lines over time.
    Lines,
    /// Areas on top of each other.
    Stack,
    /// The newest value, large.
    Number,
    /// The newest values by label.
    Table,
}

/// A panel.
pub(super) struct Panel {
    title: &'static str,
    description: &'static str,
    unit: &'static str,
    shape: Shape,
    queries: Vec<(String, &'static str)>,
    /// From this value on it is shown in red.
    alarm: Option<f64>,
}

/// Panels under a heading.
pub(super) struct Row {
    pub title: &'static str,
    pub panels: Vec<Panel>,
}

/// A panel of lines; `queries` are expressions and the legends of their series.
pub(super) fn lines(title: &'static str, unit: &'static str, description: &'static str, queries: &[(&str, &'static str)]) -> Panel {
    let queries = queries.iter().map(|(expression, legend)| ((*expression).to_owned(), *legend)).collect();
    Panel { title, description, unit, shape: Shape::Lines, queries, alarm: None }
}

impl Panel {
    pub fn shape(mut self, shape: Shape) -> Self {
        self.shape = shape;
        self
    }

    pub fn alarm(mut self, from: f64) -> Self {
        self.alarm = Some(from);
        self
    }

    fn width(&self) -> u32 {
        match self.shape {
            Shape::Number => 4,
            Shape::Lines | Shape::Stack => 8,
            Shape::Table => 24,
        }
    }

    fn height(&self) -> u32 {
        match self.shape {
            Shape::Number => 4,
            Shape::Lines | Shape::Stack | Shape::Table => 8,
        }
    }

    fn json(&self, id: u32, x: u32, y: u32) -> Value {
        let kind = match self.shape {
            Shape::Lines | Shape::Stack => "timeseries",
            Shape::Number => "stat",
            Shape::Table => "table",
        };
        let now = matches!(self.shape, Shape::Number | Shape::Table);
        let targets: Vec<Value> = self
            .queries
            .iter()
            .zip('A'..='Z')
            .map(|((expression, legend), name)| {
                let format = if self.shape == Shape::Table { "table" } else { "time_series" };
                json!({"refId": name, "datasource": source(), "expr": expression, "legendFormat": legend, "instant": now, "range": !now, "format": format})
            })
            .collect();
        let mut steps = vec![json!({"color": "green", "value": null})];
        steps.extend(self.alarm.map(|from| json!({"color": "red", "value": from})));
        let stacking = if self.shape == Shape::Stack { "normal" } else { "none" };
        let custom = match self.shape {
            Shape::Lines => json!({"drawStyle": "line", "fillOpacity": 0, "stacking": {"mode": stacking}}),
            Shape::Stack => json!({"drawStyle": "line", "fillOpacity": 40, "stacking": {"mode": stacking}}),
            Shape::Number | Shape::Table => json!({}),
        };
        json!({
            "id": id, "type": kind, "title": self.title, "description": self.description, "datasource": source(),
            "gridPos": {"x": x, "y": y, "w": self.width(), "h": self.height()}, "targets": targets,
            "fieldConfig": {"defaults": {"unit": self.unit, "custom": custom, "thresholds": {"mode": "absolute", "steps": steps}}, "overrides": []},
            "options": match self.shape {
                Shape::Lines | Shape::Stack => json!({"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}),
                Shape::Number => json!({"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"}),
                Shape::Table => json!({"showHeader": true}),
            },
        })
    }
}

/// The data source that is chosen at the top.
pub(super) fn source() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

/// Rows from top to bottom, their panels from left to right.
pub(super) fn layout(rows: &[Row]) -> Vec<Value> {
    let (mut panels, mut id, mut y) = (Vec::new(), 0, 0);
    for row in rows {
        id += 1;
        panels.push(
            json!({"id": id, "type": "row", "title": row.title, "collapsed": false, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}, "panels": []}),
        );
        y += 1;
        let (mut x, mut tallest) = (0, 0);
        for panel in &row.panels {
            if x + panel.width() > 24 {
                (x, y, tallest) = (0, y + tallest, 0);
            }
            id += 1;
            panels.push(panel.json(id, x, y));
            x += panel.width();
            tallest = tallest.max(panel.height());
        }
        y += tallest;
    }
    panels
}

/// A quantile of a histogram, by labels.
pub(super) fn quantile(quantile: &str, histogram: &str, by: &str) -> String {
    let by = if by.is_empty() { "le".to_owned() } else { format!("le, {by}") };
    format!("histogram_quantile({quantile}, sum by ({by}) (rate({histogram}_bucket[$__rate_interval])))")
}
