"""The paper's figures and tables, measured again in small: plan, steps, measures and the page. `make paper`."""
