# Remake the golden files beside this script: Rscript make_goldens.R
# Needs R and mgcv only. README.md explains what is in the files.

library(mgcv)

here <- dirname(normalizePath(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE))))

# Simulated columns are rounded to what the files hold, so that both fits read the same numbers.
round10 <- function(x) signif(x, 10)
seed <- function(s) set.seed(s, kind = "Mersenne-Twister", normal.kind = "Inversion")

gauss3 <- function() {
  table <- read.table(file.path(here, "../../../data/Gauss3.dat"), skip = 60)
  data.frame(y = table[[1]], x = table[[2]])
}

null_term <- function(n = 400) {
  seed(101)
  x1 <- runif(n)
  x2 <- rnorm(n)
  data.frame(y = sin(2 * pi * x1) + rnorm(n, sd = 0.5), x1, x2)
}

linear_term <- function(n = 400) {
  seed(102)
  x1 <- runif(n, -1, 1)
  x2 <- runif(n, 0, 2 * pi)
  data.frame(y = 2 * x1 + sin(x2) + rnorm(n, sd = 0.4), x1, x2)
}

binary <- function(n = 1000) {
  seed(103)
  x1 <- runif(n)
  x2 <- rnorm(n)
  data.frame(y = rbinom(n, 1, plogis(1.5 * sin(2 * pi * x1) + 0.6 * x2^2 - 0.6)), x1, x2)
}

counts <- function(n = 500) {
  seed(104)
  x1 <- runif(n)
  x2 <- runif(n, 0, 100)
  data.frame(y = rpois(n, exp(0.8 + 0.7 * sin(2 * pi * x1) + cos(x2 / 20))), x1, x2)
}

gamma_log <- function(n = 500) {
  seed(105)
  x1 <- runif(n)
  x2 <- rgamma(n, shape = 3)
  mu <- exp(1 + 0.8 * sin(2 * pi * x1) + log1p(x2))
  data.frame(y = rgamma(n, shape = 4, scale = mu / 4), x1, x2)
}

weights_prior <- function(n = 300) {
  seed(106)
  x1 <- runif(n)
  x2 <- runif(n, -2, 2)
  weights <- runif(n, 0.2, 5)
  y <- 4 * x1 * (1 - x1) + exp(-x2^2) + rnorm(n, sd = 0.3) / sqrt(weights)
  data.frame(y, x1, x2, weights)
}

# Levels of unlike sizes; the counts have two such columns, the second with nothing in it.
effects <- function(n, k, sd) {
  size <- rgamma(k, shape = 2)
  level <- sample(k, n, replace = TRUE, prob = size)
  list(level = paste0("l", level), effect = rnorm(k, sd = sd)[level])
}

levels_gaussian <- function(n = 400) {
  seed(107)
  x <- runif(n)
  g <- effects(n, 20, 0.2)
  data.frame(y = sin(2 * pi * x) + g$effect + rnorm(n), x, g = g$level)
}

levels_crossed <- function(n = 500) {
  seed(108)
  x <- runif(n)
  g <- effects(n, 25, 0.15)
  h <- effects(n, 12, 0)
  y <- rpois(n, exp(0.5 + sin(2 * pi * x) + g$effect))
  data.frame(y, x, g = g$level, h = h$level)
}

levels_nested <- function(n = 400) {
  seed(109)
  g <- effects(n, 8, 0.5)
  h <- paste0(g$level, sample(c("a", "b", "c"), n, replace = TRUE))
  data.frame(y = g$effect + rnorm(n), g = g$level, h)
}

levels_binary <- function(n = 800) {
  seed(110)
  g <- effects(n, 30, 0.4)
  h <- effects(n, 6, 0.2)
  data.frame(y = rbinom(n, 1, plogis(g$effect + h$effect - 0.3)), g = g$level, h = h$level)
}

overdispersed <- function(n = 500) {
  seed(112)
  x1 <- runif(n)
  x2 <- runif(n, 0, 100)
  mu <- exp(1 + 0.7 * sin(2 * pi * x1) + cos(x2 / 20))
  data.frame(y = rnbinom(n, size = 2, mu = mu), x1, x2)
}

shares <- function(n = 500) {
  seed(113)
  x1 <- runif(n)
  x2 <- rnorm(n)
  mu <- plogis(sin(2 * pi * x1) + 0.4 * x2)
  data.frame(y = rbinom(n, 10, rbeta(n, 15 * mu, 15 * (1 - mu))) / 10, x1, x2)
}

zeros_and_amounts <- function(n = 500) {
  seed(114)
  x1 <- runif(n)
  x2 <- runif(n, 0, 100)
  mu <- exp(1 + 0.7 * sin(2 * pi * x1) + cos(x2 / 20))
  data.frame(y = rTweedie(mu, p = 1.4, phi = 1.5), x1, x2)
}

outliers <- function(n = 500) {
  seed(115)
  x1 <- runif(n)
  x2 <- runif(n, 0, 100)
  data.frame(y = sin(2 * pi * x1) + cos(x2 / 20) + 0.3 * rt(n, df = 4), x1, x2)
}

# Boundary knots at the range, repeated four times; k - 4 inner knots at equally spaced quantiles.
cubic_knots <- function(x, k) {
  inner <- quantile(x, seq(0, 1, length.out = k - 2)[-c(1, k - 2)], type = 7, names = FALSE)
  c(rep(min(x), 4), inner, rep(max(x), 4))
}

json <- function(x) {
  if (is.list(x)) {
    inside <- sprintf('"%s": %s', names(x), vapply(x, json, ""))
    return(paste0("{\n", paste(inside, collapse = ",\n"), "\n}"))
  }
  text <- if (is.null(x)) "null"
  else if (is.character(x)) sprintf('"%s"', x)
  else if (is.logical(x)) tolower(x)
  else ifelse(is.na(x), "null", sprintf("%.10g", x))
  if (inherits(x, "AsIs")) text <- paste0("[", paste(text, collapse = ","), "]")
  text
}

golden <- function(name, data, family = gaussian(), k = 15) {
  data <- as.data.frame(lapply(data, round10))
  features <- setdiff(names(data), c("y", "weights"))
  knots <- lapply(data[features], cubic_knots, k = k)
  weights <- if (is.null(data$weights)) rep(1, nrow(data)) else data$weights

  smooths <- sprintf('s(%s, bs = "bs", k = %d, m = c(3, 2))', features, k)
  fit <- gam(
    reformulate(smooths, "y"), family, cbind(data[c("y", features)], w = weights), weights = w,
    knots = knots, method = "REML",
    # The penalty stays the plain integral of the squared second derivative.
    control = gam.control(scalePenalty = FALSE, epsilon = 1e-12, newton = list(conv.tol = 1e-9))
  )
  stopifnot(
    fit$converged,
    vapply(fit$smooth, function(s) s$S.scale == 1, NA),
    mapply(function(s, t) identical(s$knots, t), fit$smooth, knots)
  )

  grid <- as.data.frame(lapply(data[features], function(x) {
    round10(seq(min(x), max(x), length.out = 50))
  }))
  curves <- predict(fit, grid, type = "terms", se.fit = TRUE)
  terms <- lapply(seq_along(features), function(j) {
    inner <- knots[[j]][5:k]
    list(
      inner_knots = I(inner), grid = I(grid[[j]]),
      fit = I(curves$fit[, j]), se = I(curves$se.fit[, j])
    )
  })

  tests <- summary(fit)
  content <- list(
    name = name, mgcv = as.character(packageVersion("mgcv")), n = nrow(data),
    family = tolower(fit$family$family), link = fit$family$link, k = k, features = I(features),
    sp = I(unname(fit$sp)),
    edf = I(vapply(fit$smooth, function(s) sum(fit$edf[s$first.para:s$last.para]), 0)),
    scale_estimated = fit$scale.estimated, scale = fit$sig2,
    # Of negative binomial, Tweedie and scaled t: theta, p, (df, sigma).
    parameters = I(if (is.null(fit$family$getTheta)) numeric() else fit$family$getTheta(TRUE)),
    reml_scale = fit$reml.scale, deviance = deviance(fit), null_deviance = fit$null.deviance,
    # AIC() would add the uncertainty of the smoothing parameters to the edf.
    aic = fit$aic, intercept = unname(coef(fit)[1]), intercept_se = unname(tests$se[1]),
    ref_df = I(unname(tests$s.table[, "Ref.df"])),
    statistic = I(unname(tests$s.table[, 3])), p_value = I(unname(tests$s.table[, "p-value"])),
    reml = as.vector(fit$gcv.ubre), eta = I(unname(fit$linear.predictors[1:20])),
    terms = setNames(terms, features), data = lapply(data, I)
  )
  path <- file.path(here, paste0(name, ".json"))
  writeLines(json(content), path)
  stopifnot(file.size(path) < 60e3)
  cat(sprintf(
    "%-12s %6d bytes  edf %s  sp %s  scale %.4g  gradient %.1g  %s\n", name, file.size(path),
    paste(sprintf("%.3f", content$edf), collapse = " "),
    paste(sprintf("%.4g", content$sp), collapse = " "), content$scale,
    max(abs(fit$outer.info$grad)), fit$outer.info$conv
  ))
}

# Tests of random effects, of columns of text; a numeric column gets a smooth as above.
golden_effects <- function(name, data, family = gaussian(), k = 15) {
  data[] <- lapply(data, function(x) if (is.numeric(x)) round10(x) else factor(x))
  features <- setdiff(names(data), "y")
  text <- vapply(data[features], is.factor, NA)
  smooths <- ifelse(
    text, sprintf('s(%s, bs = "re")', features),
    sprintf('s(%s, bs = "bs", k = %d, m = c(3, 2))', features, k)
  )
  fit <- gam(
    reformulate(smooths, "y"), family, data, method = "REML",
    knots = lapply(data[features[!text]], cubic_knots, k = k),
    control = gam.control(scalePenalty = FALSE, epsilon = 1e-12, newton = list(conv.tol = 1e-9))
  )
  stopifnot(fit$converged)
  tests <- summary(fit)$s.table
  content <- list(
    name = name, mgcv = as.character(packageVersion("mgcv")), family = tolower(fit$family$family),
    link = fit$family$link, k = k, features = I(features), sp = I(unname(fit$sp)),
    edf = I(unname(tests[, "edf"])), ref_df = I(unname(tests[, "Ref.df"])),
    statistic = I(unname(tests[, 3])), p_value = I(unname(tests[, "p-value"])),
    data = lapply(data, function(x) I(if (is.factor(x)) as.character(x) else x))
  )
  writeLines(json(content), file.path(here, paste0(name, ".json")))
  print(tests)
}

# A curve from which values that many rows share deviate, as a random effect of these values.
golden_atoms <- function(name, n = 600, k = 15) {
  seed(111)
  atoms <- c(0.1, 0.25, 0.5, 0.7, 0.9)
  x <- ifelse(runif(n) < 0.4, sample(atoms, n, replace = TRUE), runif(n))
  effect <- c(1, -0.8, 0.6, 0, -1.2)
  at <- match(x, atoms)
  y <- round10(sin(2 * pi * x) + ifelse(is.na(at), 0, effect[at]) + rnorm(n, sd = 0.5))
  data <- data.frame(y, x = round10(x), atom = factor(ifelse(is.na(at), 1, at)), on = as.numeric(!is.na(at)))
  fit <- gam(
    y ~ s(x, bs = "bs", k = k, m = c(3, 2)) + s(atom, bs = "re", by = on), gaussian(), data,
    method = "REML", knots = list(x = cubic_knots(data$x, k)),
    control = gam.control(scalePenalty = FALSE, epsilon = 1e-12, newton = list(conv.tol = 1e-9))
  )
  stopifnot(fit$converged)
  grid <- c(seq(0.01, 0.99, length.out = 40), atoms)
  at <- match(grid, atoms)
  new <- data.frame(x = grid, atom = factor(ifelse(is.na(at), 1, at)), on = as.numeric(!is.na(at)))
  found <- predict(fit, new, se.fit = TRUE)
  content <- list(
    name = name, mgcv = as.character(packageVersion("mgcv")), k = k, atoms = I(atoms),
    knots = I(unname(fit$smooth[[1]]$knots)), sp = I(unname(fit$sp)), edf = sum(fit$edf),
    scale = fit$sig2, aic = fit$aic, grid = I(grid), fit = I(as.vector(found$fit)),
    se = I(as.vector(found$se.fit)), x = I(data$x), y = I(data$y)
  )
  writeLines(json(content), file.path(here, paste0(name, ".json")))
  print(c(fit$sp, content$edf))
}

# A pair: two curves and mgcv's ti of quadratic B-splines, at given and at chosen smoothing.
golden_pair <- function(name, n = 400, k = 15, alpha = 0.05) {
  seed(114)
  a <- runif(n)
  b <- 0.4 * a + 0.6 * runif(n)
  y <- sin(5 * a) + b^2 + 4 * (a - 0.5) * cos(4 * b) + rnorm(n, sd = 0.3)
  data <- as.data.frame(lapply(list(y = y, a = a, b = b), round10))
  data$a2 <- data$a
  data$b2 <- data$b
  quadratic <- function(x) {
    c(rep(min(x), 3), quantile(x, (1:3) / 4, type = 7, names = FALSE), rep(max(x), 3))
  }
  knots <- list(
    a = cubic_knots(data$a, k), b = cubic_knots(data$b, k),
    a2 = quadratic(data$a), b2 = quadratic(data$b)
  )
  # mgcv divides the penalty of each margin by its largest eigenvalue.
  largest <- function(smooth) {
    S <- smoothCon(smooth, data, knots, absorb.cons = TRUE, scale.penalty = FALSE)[[1]]$S[[1]]
    max(eigen(S, symmetric = TRUE, only.values = TRUE)$values)
  }
  unit <- c(
    largest(s(a2, bs = "bs", k = 6, m = c(2, 2))), largest(s(b2, bs = "bs", k = 6, m = c(2, 2)))
  )
  fit <- function(sp) {
    gam(
      y ~ s(a, bs = "bs", k = k, m = c(3, 2)) + s(b, bs = "bs", k = k, m = c(3, 2)) +
        ti(a2, b2, bs = "bs", k = 6, m = list(c(2, 2), c(2, 2)), np = FALSE),
      data = data, knots = knots, method = "REML", sp = sp,
      control = gam.control(scalePenalty = FALSE, epsilon = 1e-12, newton = list(conv.tol = 1e-9))
    )
  }
  given <- fit(2 * alpha * c(1, 1, unit))
  chosen <- fit(NULL)
  content <- list(
    name = name, mgcv = as.character(packageVersion("mgcv")), k = k, alpha = alpha,
    given = I(unname(given$linear.predictors)), given_edf = sum(given$edf),
    chosen = I(unname(chosen$linear.predictors)), chosen_edf = sum(chosen$edf),
    sp = I(unname(chosen$sp) / c(1, 1, unit)), a = I(data$a), b = I(data$b), y = I(data$y)
  )
  writeLines(json(content), file.path(here, paste0(name, ".json")))
  print(c(content$sp, content$chosen_edf))
}

golden_pair("pair")
golden_atoms("atoms")
golden_effects("levels_gaussian", levels_gaussian())
golden_effects("levels_crossed", levels_crossed(), poisson())
golden_effects("levels_nested", levels_nested())
golden_effects("levels_binary", levels_binary(), binomial())
golden("gauss3", gauss3(), k = 20)
golden("null_term", null_term())
golden("linear_term", linear_term())
golden("binary", binary(), binomial())
golden("counts", counts(), poisson())
golden("gamma", gamma_log(), Gamma(link = "log"))
golden("weights", weights_prior())
golden("quasipoisson", overdispersed(), quasipoisson())
golden("quasibinomial", shares(), quasibinomial())
golden("negative_binomial", overdispersed(), nb())
golden("tweedie", zeros_and_amounts(), tw())
golden("scaled_t", outliers(), scat())
