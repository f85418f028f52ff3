//! What is wrong with a template before it is ever evaluated.

use super::Template;
use super::functions::{NAMES, REFUSED};
use gotmpl::parse::{Expr, ListNode, Node, PipeNode, Pos};

/// Checks one that may use these variables beside `$`; `more` are the functions that it may use beside those of rules.
pub(super) fn check(
    template: &Template,
    variables: &[&str],
    more: &'static [&'static str],
) -> Result<(), String> {
    let names = template
        .defines
        .iter()
        .map(|define| define.name.to_string())
        .collect();
    let mut check = Check {
        templates: names,
        more,
        variables: std::iter::once("$")
            .chain(variables.iter().copied())
            .map(str::to_owned)
            .collect(),
    };
    check.list(&template.body)?;
    for define in &template.defines {
        check.variables = vec!["$".to_owned()];
        check.list(&define.body)?;
    }
    Ok(())
}

struct Check {
    templates: Vec<String>,
    more: &'static [&'static str],
    variables: Vec<String>,
}

impl Check {
    fn list(&mut self, list: &ListNode) -> Result<(), String> {
        list.nodes.iter().try_for_each(|node| self.node(node))
    }

    fn node(&mut self, node: &Node) -> Result<(), String> {
        match node {
            Node::List(list) => self.list(list),
            Node::Action(action) => self.pipe(&action.pipe),
            Node::If(branch) | Node::Range(branch) | Node::With(branch) => {
                let mark = self.variables.len();
                self.pipe(&branch.pipe)?;
                self.list(&branch.body)?;
                if let Some(body) = &branch.else_body {
                    self.list(body)?;
                }
                self.variables.truncate(mark);
                Ok(())
            }
            Node::Template(call) => {
                if !self.templates.iter().any(|name| *name == call.name) {
                    return Err(at(call.pos, &format!("template {:?} is not defined", call.name)));
                }
                call.pipe.as_ref().map_or(Ok(()), |pipe| self.pipe(pipe))
            }
            Node::Text(_) | Node::Define(_) | Node::Break(_) | Node::Continue(_) => Ok(()),
        }
    }

    fn pipe(&mut self, pipe: &PipeNode) -> Result<(), String> {
        for expr in pipe.commands.iter().flat_map(|command| &command.args) {
            self.expr(expr)?;
        }
        for name in &pipe.decl {
            if pipe.is_assign && !self.variables.iter().any(|known| known == name) {
                return Err(at(pipe.pos, &format!("undefined variable {name}")));
            }
            self.variables.push(name.to_string());
        }
        Ok(())
    }

    fn expr(&mut self, expr: &Expr) -> Result<(), String> {
        match expr {
            Expr::Identifier(pos, name) if REFUSED.contains(&name.as_str()) => {
                Err(at(*pos, &format!("function {name} is not supported here")))
            }
            Expr::Identifier(pos, name)
                if !NAMES.contains(&name.as_str()) && !self.more.contains(&name.as_str()) =>
            {
                Err(at(*pos, &format!("function {name:?} not defined")))
            }
            Expr::Variable(pos, name, _) if !self.variables.iter().any(|known| known == name) => {
                Err(at(*pos, &format!("undefined variable {name}")))
            }
            Expr::Pipe(_, pipe) => self.pipe(pipe),
            Expr::Chain(_, inner, _) => self.expr(inner),
            _ => Ok(()),
        }
    }
}

fn at(pos: Pos, what: &str) -> String {
    if pos.line > 1 {
        return format!("line {}: {what}", pos.line);
    }
    what.to_owned()
}
