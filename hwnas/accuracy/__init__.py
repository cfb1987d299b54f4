"""What a candidate's accuracy is, or is likely to be: data sets, training, proxies, features and predictors."""
