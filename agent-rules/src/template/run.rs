//! Evaluation of a template.

use super::functions::call;
use super::value::Value;
use super::{Scope, Template};
use gotmpl::parse::{BranchNode, CommandNode, Expr, ListNode, Node, Number, PipeNode};
use std::rc::Rc;

/// Templates that call each other are no deeper than this.
const DEEPEST: usize = 100;
/// No template writes more than this.
const LONGEST: usize = 1 << 20;

/// How a list of nodes ended.
#[derive(PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Run<'a> {
    template: &'a Template,
    scope: &'a Scope<'a>,
    variables: Vec<(String, Value)>,
    out: String,
    depth: usize,
}

pub(super) fn run(template: &Template, scope: &Scope<'_>) -> Result<String, String> {
    let data = scope.data();
    let get = |name| data.get(name).cloned().unwrap_or(Value::Nil);
    let variables = [
        ("$labels", get("Labels")),
        ("$externalLabels", get("ExternalLabels")),
        ("$externalURL", get("ExternalURL")),
        ("$value", get("Value")),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value)).to_vec();
    with(template, scope, variables, &Value::Data(Rc::new(data)))
}

/// Evaluates a template with this as its data.
pub(super) fn with(
    template: &Template,
    scope: &Scope<'_>,
    variables: Vec<(String, Value)>,
    data: &Value,
) -> Result<String, String> {
    let mut run = Run {
        template,
        scope,
        variables,
        out: String::new(),
        depth: 0,
    };
    run.variables.push(("$".to_owned(), data.clone()));
    run.list(&template.body, data)?;
    Ok(run.out)
}

impl Run<'_> {
    fn list(&mut self, list: &ListNode, dot: &Value) -> Result<Flow, String> {
        for node in &list.nodes {
            let flow = self.node(node, dot)?;
            if flow != Flow::On {
                return Ok(flow);
            }
            if self.out.len() > LONGEST {
                return Err(format!("it writes more than {LONGEST} bytes"));
            }
        }
        Ok(Flow::On)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, String> {
        match node {
            Node::List(list) => return self.list(list, dot),
            Node::Text(text) => self.out.push_str(&text.text),
            Node::Action(action) => {
                let value = self.pipe(&action.pipe, dot)?;
                if action.pipe.decl.is_empty() {
                    value.write(&mut self.out);
                }
            }
            Node::If(branch) | Node::With(branch) => {
                let mark = self.variables.len();
                let value = self.pipe(&branch.pipe, dot)?;
                let inner = if matches!(node, Node::With(_)) {
                    &value
                } else {
                    dot
                };
                let flow = if value.is_true() {
                    self.list(&branch.body, inner)
                } else {
                    self.otherwise(branch, dot)
                };
                self.variables.truncate(mark);
                return flow;
            }
            Node::Range(branch) => {
                let mark = self.variables.len();
                let flow = self.range(branch, dot);
                self.variables.truncate(mark);
                return flow;
            }
            Node::Template(call) => {
                let defined = self
                    .template
                    .defines
                    .iter()
                    .rfind(|define| define.name == call.name);
                let defined = defined.ok_or_else(|| format!("template {:?} not defined", call.name))?;
                let inner = match &call.pipe {
                    Some(pipe) => self.pipe(pipe, dot)?,
                    None => Value::Nil,
                };
                self.depth += 1;
                if self.depth > DEEPEST {
                    return Err(format!("templates call each other more than {DEEPEST} deep"));
                }
                let outer = std::mem::replace(&mut self.variables, vec![("$".to_owned(), inner.clone())]);
                self.list(&defined.body, &inner)?;
                self.variables = outer;
                self.depth -= 1;
            }
            Node::Define(_) => {}
            Node::Break(_) => return Ok(Flow::Break),
            Node::Continue(_) => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn otherwise(&mut self, branch: &BranchNode, dot: &Value) -> Result<Flow, String> {
        match &branch.else_body {
            Some(body) => self.list(body, dot),
            None => Ok(Flow::On),
        }
    }

    fn range(&mut self, branch: &BranchNode, dot: &Value) -> Result<Flow, String> {
        let mut commands = branch.pipe.clone();
        let names = std::mem::take(&mut commands.decl);
        let items: Vec<(Value, Value)> = match self.pipe(&commands, dot)? {
            Value::Samples(samples) => {
                let all = samples.iter().enumerate();
                all.map(|(at, sample)| (Value::Int(at as i64), Value::Sample(sample.clone())))
                    .collect()
            }
            Value::List(items) => {
                let all = items.iter().enumerate();
                all.map(|(at, item)| (Value::Int(at as i64), item.clone()))
                    .collect()
            }
            Value::Texts(texts) | Value::Pairs(texts) => {
                let all = texts.iter();
                all.map(|(name, value)| (Value::text(name), Value::text(value)))
                    .collect()
            }
            Value::Named(values) => {
                let all = values.iter();
                all.map(|(name, value)| (Value::text(name), value.clone()))
                    .collect()
            }
            Value::Nil => Vec::new(),
            other => return Err(format!("range can't iterate over {}", other.kind())),
        };
        if items.is_empty() {
            return self.otherwise(branch, dot);
        }
        let mark = self.variables.len();
        for (key, item) in items {
            let values = match names.len() {
                0 => Vec::new(),
                1 => vec![item.clone()],
                _ => vec![key, item.clone()],
            };
            for (name, value) in names.iter().zip(values) {
                self.set(name, value, branch.pipe.is_assign)?;
            }
            let flow = self.list(&branch.body, &item)?;
            self.variables.truncate(mark);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn set(&mut self, name: &str, value: Value, assign: bool) -> Result<(), String> {
        if !assign {
            self.variables.push((name.to_owned(), value));
            return Ok(());
        }
        let known = self.variables.iter_mut().rfind(|(known, _)| known == name);
        let (_, known) = known.ok_or_else(|| format!("undefined variable {name}"))?;
        *known = value;
        Ok(())
    }

    fn pipe(&mut self, pipe: &PipeNode, dot: &Value) -> Result<Value, String> {
        let mut last = None;
        for command in &pipe.commands {
            last = Some(self.command(command, dot, last)?);
        }
        let value = last.unwrap_or(Value::Nil);
        for name in &pipe.decl {
            self.set(name, value.clone(), pipe.is_assign)?;
        }
        Ok(value)
    }

    fn command(&mut self, command: &CommandNode, dot: &Value, last: Option<Value>) -> Result<Value, String> {
        let Some((first, rest)) = command.args.split_first() else {
            return Ok(last.unwrap_or(Value::Nil));
        };
        if let Expr::Identifier(_, name) = first {
            return self.function(name, rest, dot, last);
        }
        if !rest.is_empty() || last.is_some() {
            return Err("can't give argument to what is no function".to_owned());
        }
        self.expr(first, dot)
    }

    fn function(
        &mut self,
        name: &str,
        rest: &[Expr],
        dot: &Value,
        last: Option<Value>,
    ) -> Result<Value, String> {
        if matches!(name, "and" | "or") {
            let mut value = Value::Nil;
            for expr in rest {
                value = self.expr(expr, dot)?;
                if value.is_true() == (name == "or") {
                    return Ok(value);
                }
            }
            return Ok(last.unwrap_or(value));
        }
        let mut args = Vec::with_capacity(rest.len() + 1);
        for expr in rest {
            args.push(self.expr(expr, dot)?);
        }
        args.extend(last);
        call(name, &args, self.scope)
    }

    fn expr(&mut self, expr: &Expr, dot: &Value) -> Result<Value, String> {
        let chain = |value: Value, names: &[gotmpl::parse::SmolStr]| {
            names.iter().try_fold(value, |value, name| value.field(name))
        };
        match expr {
            Expr::Dot(_) => Ok(dot.clone()),
            Expr::Field(_, names) => chain(dot.clone(), names),
            Expr::Variable(_, name, names) => {
                let known = self.variables.iter().rfind(|(known, _)| known == name);
                let value = known.map(|(_, value)| value.clone());
                chain(value.ok_or_else(|| format!("undefined variable {name}"))?, names)
            }
            Expr::Identifier(_, name) => self.function(name, &[], dot, None),
            Expr::String(_, text) => Ok(Value::text(text)),
            Expr::Number(_, Number::Int(value)) => Ok(Value::Int(*value)),
            Expr::Number(_, Number::Uint(value)) => Ok(Value::Float(*value as f64)),
            Expr::Number(_, Number::Float(value)) => Ok(Value::Float(*value)),
            Expr::Bool(_, value) => Ok(Value::Bool(*value)),
            Expr::Nil(_) => Ok(Value::Nil),
            Expr::Pipe(_, pipe) => self.pipe(pipe, dot),
            Expr::Chain(_, inner, names) => {
                let value = self.expr(inner, dot)?;
                chain(value, names)
            }
        }
    }
}
