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
    /// The name of the newest series, large.
    Name,
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
            Shape::Number | Shape::Name => 4,
            Shape::Lines | Shape::Stack => 8,
            Shape::Table => 24,
        }
    }

    fn height(&self) -> u32 {
        match self.shape {
            Shape::Number | Shape::Name => 4,
            Shape::Lines | Shape::Stack | Shape::Table => 8,
        }
    }

    fn json(&self, id: u32, (x, y, width): (u32, u32, u32)) -> Value {
        let kind = match self.shape {
            Shape::Lines | Shape::Stack => "timeseries",
            Shape::Number | Shape::Name => "stat",
            Shape::Table => "table",
        };
        let now = matches!(self.shape, Shape::Number | Shape::Name | Shape::Table);
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
            Shape::Number | Shape::Name => json!({}),
            Shape::Table => json!({"align": "auto", "inspect": false}),
        };
        json!({
            "id": id, "type": kind, "title": self.title, "description": self.description, "datasource": source(),
            "gridPos": {"x": x, "y": y, "w": width, "h": self.height()}, "targets": targets,
            "fieldConfig": {"defaults": {"unit": self.unit, "custom": custom, "thresholds": {"mode": "absolute", "steps": steps}}, "overrides": []},
            "options": self.options(),
        })
    }

    /// What Grafana's schema asks of a panel, and what differs from its defaults.
    fn options(&self) -> Value {
        match self.shape {
            Shape::Lines | Shape::Stack => json!({
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []}, "tooltip": {"mode": "multi", "sort": "none"},
            }),
            Shape::Number | Shape::Name => json!({
                "reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "textMode": if self.shape == Shape::Name { "name" } else { "auto" },
                "graphMode": "area", "justifyMode": "auto", "orientation": "auto", "wideLayout": true, "showPercentChange": false,
                "percentChangeColorMode": "standard",
            }),
            Shape::Table => json!({"showHeader": true, "frameIndex": 0}),
        }
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
        // Numbers alone share one line.
        let share = row.panels.iter().all(|panel| panel.height() < 8).then(|| 24 / u32::try_from(row.panels.len()).unwrap_or(1).max(1));
        for panel in &row.panels {
            let width = share.map_or(panel.width(), |share| share.min(panel.width()));
            if x + width > 24 {
                (x, y, tallest) = (0, y + tallest, 0);
            }
            id += 1;
            panels.push(panel.json(id, (x, y, width)));
            x += width;
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

/// A quantile of a histogram of what is rare, over the last hour.
pub(super) fn quantile_of_hour(quantile: &str, histogram: &str) -> String {
    format!("histogram_quantile({quantile}, sum by (le) (increase({histogram}_bucket[1h])))")
}
